package testenv

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"time"
)

const (
	minPostgres = 15
	minRedis    = 7
)

// postgresBin returns the directory of PostgreSQL's binaries and their major
// version: the newest of those on PATH and those where Debian and Red Hat put
// them.
var postgresBin = sync.OnceValues(func() (found postgresBinaries, err error) {
	candidates, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	more, _ := filepath.Glob("/usr/pgsql-*/bin/postgres")
	candidates = append(candidates, more...)
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			candidates = append(candidates, path)
		}
	}
	for _, path := range candidates {
		version, err := versionOf(path, "postgres")
		if err != nil || version < minPostgres || version <= found.version {
			continue
		}
		found = postgresBinaries{dir: filepath.Dir(path), version: version}
	}
	if found.dir == "" {
		return found, fmt.Errorf("testenv: PostgreSQL %d or later is not installed "+
			"(no postgres on PATH or in /usr/lib/postgresql/*/bin); "+
			"on Debian and Ubuntu: apt-get install postgresql", minPostgres)
	}
	for _, lib := range []string{"../lib", "../lib/postgresql", "../lib64/pgsql"} {
		if m, _ := filepath.Glob(filepath.Join(found.dir, lib, "pg_stat_statements.so")); m != nil {
			found.statements = true
		}
	}
	return found, nil
})

type postgresBinaries struct {
	dir        string
	version    int
	statements bool // pg_stat_statements is there
}

func (b postgresBinaries) path(name string) string { return filepath.Join(b.dir, name) }

// redisServer returns the path of a Redis server. It is run with argv[0]
// redis-server: Debian's redis-tools holds one binary under several names, which
// decides by its own what it is, and none of them is redis-server.
var redisServer = sync.OnceValues(func() (string, error) {
	var errs []error
	for _, name := range []string{"redis-server", "redis-check-rdb"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		version, err := versionOf(path, "redis-server")
		if err == nil && version >= minRedis {
			return path, nil
		}
		if err == nil {
			err = fmt.Errorf("%s is Redis %d", path, version)
		}
		errs = append(errs, err)
	}
	return "", errors.Join(append([]error{fmt.Errorf("testenv: Redis %d or later is not installed "+
		"(neither redis-server nor redis-check-rdb on PATH); "+
		"on Debian and Ubuntu: apt-get install redis-tools", minRedis)}, errs...)...)
})

var versionPattern = regexp.MustCompile(`(?:PostgreSQL\)? |v=)(\d+)`)

// versionOf returns the major version of a program run as argv0.
func versionOf(path, argv0 string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Args[0] = argv0
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%s --version: %w", path, err)
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s --version: %q", path, out)
	}
	return strconv.Atoi(string(m[1]))
}
