// Package settings reads the storefront's configuration: environment variables, with flags of the same name. The server and
// the demo's launcher share it, so that the launcher finds a mistake before it starts anything.
package settings

import (
	"cmp"
	"crypto/subtle"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/cluster"
	"github.com/fairlead/fairlead/ratelimit"
	"github.com/fairlead/fairlead/scale/redisconn"
)

// Settings is what the environment, or flags of the same name, say: ADDR or -addr, ADMIN_ADDR or -admin-addr. The usage text of
// each says what it means.
type Settings struct {
	Addr         string
	AdminAddr    string
	AdminToken   string
	Workers      int
	DatabaseURL  string
	ReplicaURLs  []string
	RedisURL     string
	Control      string
	Rate         Rate
	DrainTimeout time.Duration
	IdleGrace    time.Duration
}

// Rate is a limit a client, unless it is off.
type Rate struct {
	On    bool
	Limit ratelimit.Limit
}

// variables is the list that -help prints, and the order in which they are checked. Each sets its part of the settings from
// text, which is the default where the variable is empty.
var variables = []struct {
	name, byDefault, usage string
	set                    func(*Settings, string) error
}{
	{"ADDR", "127.0.0.1:8080", "public listener", func(c *Settings, v string) error {
		c.Addr = v
		return checkAddr(v)
	}},
	{"ADMIN_ADDR", "127.0.0.1:9090", "probes and metrics, served by the supervisor", func(c *Settings, v string) error {
		c.AdminAddr = v
		return checkAddr(v)
	}},
	{"ADMIN_TOKEN", "", "bearer token for all but the probes, required if ADMIN_ADDR is not loopback", func(c *Settings, v string) error {
		c.AdminToken = v
		return nil
	}},
	{"WORKERS", "2", "worker processes; 0 runs in one process", func(c *Settings, v string) (err error) {
		if c.Workers, err = strconv.Atoi(v); err != nil || c.Workers < 0 || c.Workers > 256 {
			return errors.New("must be a number from 0 to 256")
		}
		return nil
	}},
	{"DATABASE_URL", "", "PostgreSQL primary, or several hosts: postgres://user:password@host1,host2/shop", func(c *Settings, v string) error {
		c.DatabaseURL = v
		return checkDatabaseURL(v)
	}},
	{"DATABASE_REPLICA_URLS", "", "replicas, comma-separated; must be like DATABASE_URL", func(c *Settings, v string) error {
		for u := range strings.SplitSeq(v, ",") {
			if u = strings.TrimSpace(u); u == "" {
				continue
			}
			if err := checkDatabaseURL(u); err != nil {
				return err
			}
			c.ReplicaURLs = append(c.ReplicaURLs, u)
		}
		return nil
	}},
	{"REDIS_URL", "", "Redis: redis://host:port/0, Sentinel with ?master_name=, Cluster with several hosts", func(c *Settings, v string) error {
		c.RedisURL = v
		return checkRedisURL(v)
	}},
	{"CONTROL", "", "control socket for clusterctl (default in $XDG_RUNTIME_DIR, else in a temporary directory)", func(c *Settings, v string) error {
		if c.Control = v; v == "" {
			c.Control = filepath.Join(cmp.Or(os.Getenv("XDG_RUNTIME_DIR"), controlDir()), "storefront.sock")
		}
		return nil
	}},
	{"RATE", "200/s burst 400", "limit a client: N/s, N/m or N/h, optionally burst N; off", func(c *Settings, v string) (err error) {
		c.Rate, err = parseRate(v)
		return err
	}},
	{"DRAIN_TIMEOUT", "20s", "what requests in flight may take after a stop", func(c *Settings, v string) (err error) {
		c.DrainTimeout, err = parseDuration(v)
		return err
	}},
	{"IDLE_GRACE", "2s", "how long a connection must be silent to be closed in a drain", func(c *Settings, v string) (err error) {
		c.IdleGrace, err = parseDuration(v)
		return err
	}},
}

// Parse reads flags and, for those that are not given, the environment. The error names every bad value.
func Parse(args []string, getenv func(string) string, help io.Writer) (Settings, error) {
	flags := flag.NewFlagSet("storefront", flag.ContinueOnError)
	flags.SetOutput(help)
	given := make([]*string, len(variables))
	for i, v := range variables {
		given[i] = flags.String(flagName(v.name), "", fmt.Sprintf("%s; default %q (%s)", v.usage, v.byDefault, v.name))
	}
	if err := flags.Parse(args); err != nil {
		return Settings{}, err
	}
	if flags.NArg() > 0 {
		return Settings{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}

	var c Settings
	var errs []error
	for i, v := range variables {
		value := *given[i]
		if value == "" {
			value = getenv(v.name)
		}
		shown := fmt.Sprintf(" = %q", value)
		if value == "" {
			value = v.byDefault
		}
		if strings.HasSuffix(v.name, "_URL") || strings.HasSuffix(v.name, "_URLS") {
			shown = "" // may hold a password
		}
		if err := v.set(&c, value); err != nil {
			errs = append(errs, fmt.Errorf("%s%s: %w", v.name, shown, err))
		}
	}
	if host, _, err := net.SplitHostPort(c.AdminAddr); err == nil && c.AdminToken == "" && !loopback(host) {
		errs = append(errs, fmt.Errorf("ADMIN_TOKEN: must be set, because ADMIN_ADDR = %q is not a loopback address", c.AdminAddr))
	}
	return c, errors.Join(errs...)
}

func flagName(variable string) string {
	return strings.ReplaceAll(strings.ToLower(variable), "_", "-")
}

// Cluster is the supervisor's part.
func (c Settings) Cluster() cluster.Options {
	o := cluster.Options{
		Workers:      c.Workers,
		Listen:       []cluster.Listen{{Name: "http", Addr: c.Addr}},
		Admin:        cluster.Admin{Addr: c.AdminAddr},
		Control:      c.Control,
		DrainTimeout: c.DrainTimeout,
		IdleGrace:    c.IdleGrace,
	}
	if c.AdminToken != "" {
		o.Admin.Auth = func(r *http.Request) error {
			given, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if _, password, ok := r.BasicAuth(); ok {
				given = password // a browser's way to give it
			}
			if subtle.ConstantTimeCompare([]byte(given), []byte(c.AdminToken)) != 1 {
				return errors.New("needs the ADMIN_TOKEN, as a bearer token or as a password")
			}
			return nil
		}
	}
	return o
}

func checkAddr(v string) error {
	host, port, err := net.SplitHostPort(v)
	if err != nil {
		return errors.New("must be host:port, such as 127.0.0.1:8080")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return errors.New("must be host:port with a port from 0 to 65535")
	}
	if strings.ContainsAny(host, " /") {
		return errors.New("must be host:port with a name or an address as host")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func checkDatabaseURL(v string) error {
	if v == "" {
		return errors.New("must be set: postgres://user:password@host:port/database")
	}
	if _, err := pgxpool.ParseConfig(v); err != nil || !strings.Contains(v, "://") {
		return errors.New("must be a URL: postgres://user:password@host:port/database")
	}
	return nil
}

func checkRedisURL(v string) error {
	if v == "" {
		return errors.New("must be set: redis://host:port/0")
	}
	client, err := redisconn.Open(v) // does not connect
	if err != nil {
		return fmt.Errorf("must be a URL, such as redis://host:port/0: %w", err)
	}
	return client.Close()
}

func parseDuration(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		return 0, errors.New("must be a duration above 0, such as 500ms or 20s")
	}
	return d, nil
}

func parseRate(v string) (Rate, error) {
	bad := errors.New(`must be a rate a client, such as "200/s", "200/s burst 400" or "1000/h", or "off"`)
	if v == "off" {
		return Rate{}, nil
	}
	perText, burstText, hasBurst := strings.Cut(v, " burst ")
	nText, unit, _ := strings.Cut(perText, "/")
	per, ok := map[string]time.Duration{"": time.Second, "s": time.Second, "m": time.Minute, "h": time.Hour}[unit]
	n, err := strconv.Atoi(strings.TrimSpace(nText))
	if err != nil || !ok || n < 1 {
		return Rate{}, bad
	}
	burst := 2 * n
	if hasBurst {
		if burst, err = strconv.Atoi(strings.TrimSpace(burstText)); err != nil || burst < 1 {
			return Rate{}, bad
		}
	}
	return Rate{true, ratelimit.Per(n, per).Burst(burst)}, nil
}

// controlDir is where the control socket is if neither CONTROL nor XDG_RUNTIME_DIR says so: the same for supervisor, workers
// and clusterctl, and out of the reach of other users.
func controlDir() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("storefront-%d", os.Getuid()))
}

// MakeControlDir makes the directory of the control socket if it is the temporary one.
func (s Settings) MakeControlDir() error {
	dir := controlDir()
	if filepath.Dir(s.Control) != dir {
		return nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() || info.Mode().Perm() != 0o700 {
		return fmt.Errorf("%s must be a directory of mode 0700: set CONTROL to another path", dir)
	}
	return nil
}

// RemoveControlDir removes what MakeControlDir made, unless something is in it.
func (s Settings) RemoveControlDir() {
	if filepath.Dir(s.Control) == controlDir() {
		_ = os.Remove(controlDir())
	}
}
