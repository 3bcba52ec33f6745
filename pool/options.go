package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Options configure a [Pool]. The zero value works.
type Options struct {
	// Name tells pools of one process apart in telemetry, logs and errors; "postgres" if empty.
	Name string
	// Replicas are more URLs of the same system, each with one or several hosts. Which of all servers is the primary is
	// found out, so it does not matter where a server is listed. Credentials and parameters of a URL hold for its hosts.
	Replicas []string
	// MaxConns bounds the connections to each server. 0 means pool_max_conns of the URL; without that, twice GOMAXPROCS but
	// at least 4 for the machine, shared among Workers, and at least 2. Two more connections a server are used for probes
	// and for positions. Throughput of a server usually peaks at few connections, so raise it after measuring.
	MaxConns int
	// Workers is how many processes of the machine share its default of MaxConns. 0 means the environment's
	// FAIRLEAD_WORKERS, which the cluster package sets, else 1.
	Workers int
	// AcquireTimeout bounds the wait for a free connection, separately from the context: past it a call fails with
	// [ErrSaturated]. 0 means 1s; negative leaves it to the context.
	AcquireTimeout time.Duration
	// FailoverTimeout bounds how long a call waits for a primary (a view: for any server) before it fails with
	// [ErrNoPrimary] (a view: [ErrStale]). 0 means 5s; negative does not wait.
	FailoverTimeout time.Duration
	// Leader, if set, says which server is the primary, as host:port, or "" if there is none: a cloud's API, Patroni's. It is
	// asked as often as servers are probed, within a second. It outranks what the pool finds out, where two servers claim to
	// be the primary for example, but the server it names must answer, not be in recovery and not be on an older timeline
	// than has been seen. While it fails its last answer holds; before the first the pool decides by itself. It is called by
	// one goroutine at a time, and not after Close.
	Leader func(ctx context.Context) (addr string, err error)
	// System is the identifier of the system that all servers have to belong to, as pg_controldata shows it. 0 means that
	// of the first primary; if none of its servers has answered for 30s and another system's primary does, that one is taken
	// for its successor (a restored backup, say), with an error in the log.
	System uint64
	// StickyFor is for services that have no positions to ask for (Aurora): how long reads of a scope that has written go to
	// the primary. It must exceed the replicas' lag: unlike a position it proves nothing. 0 means 5s.
	StickyFor time.Duration
	// Logger receives roles, failovers and degradations; nil is slog.Default().
	Logger *slog.Logger
}

const (
	defaultName            = "postgres"
	defaultAcquireTimeout  = time.Second
	defaultFailoverTimeout = 5 * time.Second
	defaultStickyFor       = 5 * time.Second

	connectTimeout = 2 * time.Second        // of a dial with TLS and authentication, unless the URL has its own
	probeTimeout   = time.Second            // a server that does not answer for this long is down
	probeInterval  = 500 * time.Millisecond // steady
	suspectDelay   = 100 * time.Millisecond // while there is no primary, or the server is down
	dialsAtOnce    = 8                      // to one server
)

// settled is Options with every default in place.
type settled struct {
	name            string
	acquireTimeout  time.Duration // 0: none
	failoverTimeout time.Duration
	stickyFor       time.Duration
	leader          func(context.Context) (string, error)
	system          uint64
	workers         int
	log             *slog.Logger
	configs         []*pgxpool.Config // one a server
}

func (o Options) settle(base *pgxpool.Config, connsInURL bool) (settled, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("pool: "+format, args...)) }
	s := settled{name: o.Name, acquireTimeout: o.AcquireTimeout, failoverTimeout: o.FailoverTimeout, log: o.Logger}
	if s.name == "" {
		s.name = defaultName
	}
	if s.acquireTimeout == 0 {
		s.acquireTimeout = defaultAcquireTimeout
	}
	s.acquireTimeout = max(s.acquireTimeout, 0)
	if s.failoverTimeout == 0 {
		s.failoverTimeout = defaultFailoverTimeout
	}
	s.failoverTimeout = max(s.failoverTimeout, 0)
	s.leader, s.system, s.stickyFor = o.Leader, o.System, o.StickyFor
	if o.StickyFor < 0 {
		bad("Options.StickyFor = %v: must be >= 0 (0 means %v)", o.StickyFor, defaultStickyFor)
	}
	if s.stickyFor == 0 {
		s.stickyFor = defaultStickyFor
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	s.log = s.log.With("pool", s.name)

	workers := o.Workers
	if o.Workers < 0 {
		bad("Options.Workers = %d: must be >= 0 (0 means $FAIRLEAD_WORKERS, else 1)", o.Workers)
	}
	if env := os.Getenv("FAIRLEAD_WORKERS"); workers == 0 && env != "" {
		n, err := strconv.Atoi(env)
		if err != nil || n < 0 {
			bad("FAIRLEAD_WORKERS = %q: must be a number >= 0", env)
		}
		workers = n
	}
	s.workers = max(1, workers)
	conns := o.MaxConns
	switch {
	case o.MaxConns < 0 || o.MaxConns > 1<<20:
		bad("Options.MaxConns = %d: must be >= 0 (0 means max(4, 2*GOMAXPROCS) shared among the workers)", o.MaxConns)
	case o.MaxConns == 0 && connsInURL && base != nil:
		conns = int(base.MaxConns)
	case o.MaxConns == 0:
		conns = max(2, max(4, 2*runtime.GOMAXPROCS(0))/max(1, workers))
	}

	if base != nil {
		s.configs = append(s.configs, split(base)...)
		for i, url := range o.Replicas {
			c, err := pgxpool.ParseConfig(url)
			if err != nil {
				bad("Options.Replicas[%d]: %w", i, err) // pgx leaves the password out
				continue
			}
			s.configs = append(s.configs, split(graft(base, c))...)
		}
	}
	seen := make(map[string]bool)
	unique := s.configs[:0]
	for _, c := range s.configs {
		if a := address(c); !seen[a] {
			seen[a] = true
			c.MaxConns = int32(conns)
			unique = append(unique, c)
		}
	}
	s.configs = unique
	return s, errors.Join(errs...)
}

// graft returns base with the servers, credentials and parameters of other: hooks are common to all servers.
func graft(base, other *pgxpool.Config) *pgxpool.Config {
	c := base.Copy()
	to, from := c.ConnConfig, other.ConnConfig
	to.Host, to.Port, to.Database, to.User, to.Password = from.Host, from.Port, from.Database, from.User, from.Password
	to.TLSConfig, to.Fallbacks, to.RuntimeParams = from.TLSConfig, from.Fallbacks, from.RuntimeParams
	to.SSLNegotiation, to.ConnectTimeout = from.SSLNegotiation, from.ConnectTimeout
	return c
}

// split returns one config for each server of c. What pgx keeps as fallbacks are other hosts, and the same host with and
// without TLS.
func split(c *pgxpool.Config) []*pgxpool.Config {
	var out []*pgxpool.Config
	first := c.Copy()
	first.ConnConfig.Fallbacks = nil
	out = append(out, first)
	byAddress := map[string]*pgxpool.Config{address(first): first}
	for _, f := range c.ConnConfig.Fallbacks {
		n := c.Copy()
		n.ConnConfig.Host, n.ConnConfig.Port, n.ConnConfig.TLSConfig, n.ConnConfig.Fallbacks = f.Host, f.Port, f.TLSConfig, nil
		if same, ok := byAddress[address(n)]; ok {
			same.ConnConfig.Fallbacks = append(same.ConnConfig.Fallbacks, f)
			continue
		}
		byAddress[address(n)] = n
		out = append(out, n)
	}
	return out
}

func address(c *pgxpool.Config) string {
	return fmt.Sprintf("%s:%d", c.ConnConfig.Host, c.ConnConfig.Port)
}

// ReadOptions narrow what a [View] may answer from.
type ReadOptions struct {
	// MaxStaleness is how old the answer may be: a replica that cannot be shown to be fresher does not serve. 0 means 10s;
	// negative means any age. Servers are probed at a quarter of the smallest bound in use, every 5ms at most.
	MaxStaleness time.Duration
	// WaitUpTo is how long a read waits for a replica to catch up with what its scope has written or read, before it goes
	// to the primary. 0 means 10ms; negative does not wait.
	WaitUpTo time.Duration
	// RequireReplica refuses the primary as the fallback: [ErrStale] if no replica qualifies.
	RequireReplica bool
}

const (
	defaultStaleness = 10 * time.Second
	defaultWait      = 10 * time.Millisecond
)

func (o ReadOptions) withDefaults() ReadOptions {
	if o.MaxStaleness == 0 {
		o.MaxStaleness = defaultStaleness
	}
	if o.WaitUpTo == 0 {
		o.WaitUpTo = defaultWait
	}
	return o
}
