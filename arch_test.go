package fairlead_test

import (
	"strings"
	"testing"
)

// This file says who may import whom. Every package of the module is covered by one rule; a new package needs a line
// here, and a new dependency of an old one needs a reason.

const module = "github.com/fairlead/fairlead"

// Sets of import paths that rules are made of. A path stands for itself, path/... for itself and everything below it;
// ./path is a package of this module.
var (
	xsync = []string{"golang.org/x/sync/..."}
	xsys  = []string{"golang.org/x/sys/..."}
	otel  = []string{"go.opentelemetry.io/otel/..."} // the API; mustNotReach keeps the SDK out

	// common is what any part may use. internal/testenv is not in it: it starts servers and knows the drivers.
	common = join(xsync, otel, []string{"./internal/backoff", "./internal/process", "./internal/respwriter", "./internal/telemetry"})

	causal  = []string{"./pool/causal"}
	goredis = []string{"github.com/redis/go-redis/v9/..."}
	pgx     = []string{"github.com/jackc/pgx/v5/..."}
	onRedis = join(goredis, []string{"./scale/redisconn"})
)

// rules are sought by the longest match. "./cache" covers ./cache and ./cache/internal/..., not ./cache/rediscache. Every
// package may import the standard library and the internal packages of its own tree.
var rules = map[string][]string{
	".": nil,

	"./internal/...":     join(common, xsys, []string{"./internal/loadsim"}),
	"./internal/testenv": join(common, xsys, goredis, pgx),

	// Anyone may import causal, so it must cost nothing.
	"./pool/causal": {"./internal/respwriter"},

	"./pool":       join(common, causal, pgx),
	"./pool/shard": join(common, causal, pgx, []string{"./pool"}),

	"./cache":            join(common, causal, []string{"github.com/maypok86/otter/v2/...", "github.com/klauspost/compress/..."}),
	"./cache/rediscache": join(common, causal, onRedis, []string{"./cache"}),
	"./cache/cachetest":  join(common, causal, []string{"./cache"}),

	"./session":              join(common, causal),
	"./session/redissession": join(common, causal, onRedis, []string{"./session"}),
	"./session/pgsession":    join(common, causal, pgx, []string{"./session"}),
	"./session/sessiontest":  join(common, causal, []string{"./session"}),

	"./ratelimit":               common,
	"./ratelimit/redislimit":    join(common, onRedis, []string{"./ratelimit"}),
	"./ratelimit/ratelimittest": join(common, []string{"./ratelimit"}),

	"./cluster": join(common, xsys, []string{
		"github.com/coreos/go-systemd/v22/activation",
		"github.com/coreos/go-systemd/v22/daemon",
	}),
	"./cluster/clusterctl": join(common, xsys, []string{"./cluster", "./cluster/internal/...", "github.com/urfave/cli/v3"}),

	// scale meets cluster only in internal/process.
	"./scale":           join(common, causal, []string{"./scale/drain", "./scale/breaker", "./scale/overload", "./scale/retry", "./scale/offload"}),
	"./scale/drain":     common,
	"./scale/breaker":   join(common, []string{"github.com/sony/gobreaker/v2"}),
	"./scale/overload":  common,
	"./scale/retry":     common,
	"./scale/offload":   join(common, []string{"./scale/overload"}),
	"./scale/redisconn": join(common, goredis, []string{"./scale/breaker"}),

	// Examples see what users see.
	"./examples/...": {
		"./cache/...", "./cluster/...", "./pool/...", "./ratelimit/...", "./scale/...", "./session/...",
		"github.com/...", "golang.org/...", "go.opentelemetry.io/...",
	},
	// This one starts its servers by itself, so that it is one command.
	"./examples/readyourwrites": {"./pool/...", "./internal/testenv", "github.com/jackc/..."},
}

// mustNotReach forbids packages however far down the import graph they are. A rule above cannot see what a dependency
// brings along.
var mustNotReach = []struct {
	from   []string // as in rules; path/... is a whole tree
	except []string
	target []string
	why    string
}{
	{
		from:   []string{"./..."},
		except: []string{"./cache/cachetest", "./session/sessiontest", "./ratelimit/ratelimittest"},
		target: []string{"testing/..."},
		why:    "it registers flags and is not for production",
	},
	{
		from:   []string{"./..."},
		except: []string{"./examples/..."},
		target: []string{"net/http/pprof", "expvar"},
		why:    "importing it adds handlers to http.DefaultServeMux",
	},
	{
		from:   []string{"./..."},
		except: []string{"./examples/..."},
		target: []string{"go.opentelemetry.io/otel/sdk/...", "go.opentelemetry.io/otel/exporters/..."},
		why:    "which SDK to use is the application's choice",
	},
	{
		from:   []string{"./cache", "./session", "./ratelimit", "./cluster/...", "./pool/causal", "./scale", "./scale/drain", "./scale/breaker", "./scale/overload", "./scale/retry", "./scale/offload"},
		target: join(goredis, pgx),
		why:    "whoever needs no driver must not get one",
	},
	{
		from:   []string{"./pool/..."},
		target: goredis,
		why:    "whoever needs no driver must not get one",
	},
	{
		from:   []string{"./cache/rediscache", "./session/redissession", "./ratelimit/redislimit", "./scale/redisconn"},
		target: pgx,
		why:    "whoever needs no driver must not get one",
	},
	{
		from:   []string{"./cluster"},
		target: []string{"os/exec"},
		why:    "workers are started through one narrow function, so that no descriptor leaks into them",
	},
}

func TestImports(t *testing.T) {
	graph := make(importGraph)
	for _, goos := range []string{"linux", "darwin", "windows", "freebsd"} {
		graph.load(t, goos)
	}
	if len(graph.ours()) < 5 {
		t.Fatalf("go list found only %q", graph.ours())
	}
	for _, violation := range graph.violations() {
		t.Error(violation)
	}
}

// The checks themselves must be able to fail.
func TestImportChecksFindViolations(t *testing.T) {
	for _, test := range []struct {
		name  string
		graph importGraph
		want  string // a part of what is found, or "" for nothing
	}{
		{"standard library", importGraph{"./cache": {"context", "net/http"}}, ""},
		{"allowed library", importGraph{"./cache": {"golang.org/x/sync/singleflight"}}, ""},
		{"allowed sibling", importGraph{"./session": {"./pool/causal"}}, ""},
		{"own internals", importGraph{"./pool": {"./pool/internal/lsn"}}, ""},
		{"own internals among themselves", importGraph{"./pool/internal/topology": {"./pool/internal/lsn"}}, ""},
		{"root-module example", importGraph{"./examples/quickstart": {"./cluster", "github.com/jackc/pgx/v5"}}, ""},

		{"driver", importGraph{"./cache": {"github.com/redis/go-redis/v9"}}, "./cache must not import github.com/redis/go-redis/v9"},
		{"driver in internals", importGraph{"./cluster/internal/admin": {"github.com/jackc/pgx/v5"}}, "./cluster/internal/admin must not import github.com/jackc/pgx/v5"},
		{"part imports part", importGraph{"./session": {"./cache"}}, "./session must not import ./cache"},
		{"part imports adapter", importGraph{"./cache": {"./cache/rediscache"}}, "./cache must not import ./cache/rediscache"},
		{"second driver", importGraph{"./cache/rediscache": {"github.com/jackc/pgx/v5"}}, "./cache/rediscache must not import github.com/jackc/pgx/v5"},
		{"scale imports cluster", importGraph{"./scale": {"./cluster"}}, "./scale must not import ./cluster"},
		{"internal imports public", importGraph{"./internal/process": {"./cluster"}}, "./internal/process must not import ./cluster"},
		{"foreign internals", importGraph{"./cache": {"./pool/internal/lsn"}}, "./cache must not import ./pool/internal/lsn"},
		{"test servers in production", importGraph{"./pool": {"./internal/testenv"}}, "./pool must not import ./internal/testenv"},
		{"library in causal", importGraph{"./pool/causal": {"golang.org/x/sync/errgroup"}}, "./pool/causal must not import golang.org/x/sync/errgroup"},
		{"telemetry in causal", importGraph{"./pool/causal": {"./internal/telemetry"}}, "./pool/causal must not import ./internal/telemetry"},
		{"examples use public packages", importGraph{"./examples/shop": {"./internal/telemetry"}}, "./examples/shop must not import ./internal/telemetry"},
		{"similar name", importGraph{"./cache": {"golang.org/x/synctest"}}, "./cache must not import golang.org/x/synctest"},
		{"package without a rule", importGraph{"./queue": {"context"}}, "./queue: no rule"},
		{"os/exec in cluster", importGraph{"./cluster": {"os/exec"}}, "./cluster must not reach os/exec"},

		{"testing far down", importGraph{
			"./cache":                            {"github.com/maypok86/otter/v2"},
			"github.com/maypok86/otter/v2":       {"github.com/maypok86/otter/v2/xtest"},
			"github.com/maypok86/otter/v2/xtest": {"testing"},
		}, "./cache must not reach testing: it registers flags and is not for production (./cache -> github.com/maypok86/otter/v2 -> github.com/maypok86/otter/v2/xtest -> testing)"},
		{"driver through an allowed library", importGraph{
			"./scale/breaker":              {"github.com/sony/gobreaker/v2"},
			"github.com/sony/gobreaker/v2": {"github.com/redis/go-redis/v9"},
		}, "./scale/breaker must not reach github.com/redis/go-redis/v9"},
		{"suite may use testing", importGraph{"./cache/cachetest": {"testing"}}, ""},
		{"profiling handlers", importGraph{"./cluster/internal/admin": {"net/http/pprof"}}, "./cluster/internal/admin must not reach net/http/pprof"},
		{"SDK under the API's path", importGraph{"./internal/telemetry": {"go.opentelemetry.io/otel/sdk/metric"}}, "./internal/telemetry must not reach go.opentelemetry.io/otel/sdk/metric"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.graph.violations()
			switch {
			case test.want == "" && len(got) == 0:
			case test.want != "" && len(got) > 0 && strings.Contains(strings.Join(got, "\n"), test.want):
			default:
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
