package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// PgBouncerOptions says what to start. The zero value pools a transaction at a time.
type PgBouncerOptions struct {
	// Settings are added to the section [pgbouncer], over testenv's own:
	// {"pool_mode": "session", "default_pool_size": "2"}.
	Settings map[string]string
}

// PgBouncer is a PgBouncer in front of one PostgreSQL node. Its methods are safe
// for concurrent use.
type PgBouncer struct {
	*server
	addr string
	home *home
}

// StartPgBouncer starts a PgBouncer that connects to target, a host and port, and
// returns when it answers. Every database of the target is there, for the superuser.
func StartPgBouncer(ctx context.Context, target string, options PgBouncerOptions) (*PgBouncer, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil { // not on everybody's PATH
			return nil, errors.New("testenv: PgBouncer is not installed; on Debian and Ubuntu: apt-get install pgbouncer")
		}
	}
	targetHost, targetPort, err := net.SplitHostPort(target)
	if err != nil {
		return nil, fmt.Errorf("testenv: pgbouncer: %w", err)
	}
	h, err := openHome()
	if err != nil {
		return nil, err
	}
	b, err := newPgBouncer(h, path, targetHost, targetPort, options.Settings)
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	if err := b.Start(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func newPgBouncer(h *home, path, targetHost, targetPort string, settings map[string]string) (*PgBouncer, error) {
	host, port, err := freePort()
	if err != nil {
		return nil, err
	}
	dir, err := h.mkdir("pgbouncer")
	if err != nil {
		return nil, fmt.Errorf("testenv: pgbouncer: %w", err)
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, "[databases]\n* = host=%s port=%s user=postgres\n\n[pgbouncer]\n", targetHost, targetPort)
	all := map[string]string{
		"listen_addr":        host,
		"listen_port":        strconv.Itoa(port),
		"unix_socket_dir":    "",
		"auth_type":          "any",
		"pool_mode":          "transaction",
		"admin_users":        "postgres",
		"server_login_retry": "1",
	}
	for name, value := range settings {
		all[name] = value
	}
	for name, value := range all {
		fmt.Fprintf(&conf, "%s = %s\n", name, value)
	}
	file := filepath.Join(dir, "pgbouncer.ini")
	if err := writeServerFile(file, conf.String()); err != nil {
		return nil, fmt.Errorf("testenv: pgbouncer: %w", err)
	}
	return &PgBouncer{
		server: &server{
			name:    "pgbouncer",
			command: command{path: path, args: []string{"pgbouncer", file}, dir: dir},
			log:     dir + ".log",
		},
		addr: net.JoinHostPort(host, strconv.Itoa(port)), home: h,
	}, nil
}

// Addr returns the host and port that it listens on, always the same.
func (b *PgBouncer) Addr() string { return b.addr }

// URL returns the connection string of a database, for the superuser.
func (b *PgBouncer) URL(database string) string { return PostgresURL(b.addr, database) }

// Start starts a PgBouncer that was killed and returns when it answers.
func (b *PgBouncer) Start(ctx context.Context) error {
	if err := b.server.start(); err != nil {
		return err
	}
	return b.until(ctx, "start", func(ctx context.Context) error {
		c, err := pgx.ParseConfig(b.URL("pgbouncer"))
		if err != nil {
			return err
		}
		c.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
		conn, err := pgx.ConnectConfig(ctx, c)
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	})
}

// Close ends it and removes its files. It may be called more than once.
func (b *PgBouncer) Close() error {
	if !b.shut() {
		return nil
	}
	return errors.Join(b.Kill(), b.home.close())
}
