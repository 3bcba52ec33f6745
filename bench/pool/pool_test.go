package pool

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

var servers = testenv.Share(func(ctx context.Context) (*testenv.Postgres, error) {
	return testenv.StartPostgres(ctx, testenv.PostgresOptions{Replicas: 2})
})

var quiet = slog.New(slog.DiscardHandler) // its lines would stand among the results

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run, servers)) }

type querier interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	QueryRow(context.Context, string, ...any) pgx.Row
}

const (
	conns    = 4
	readSQL  = "select v from kv where k = $1"
	writeSQL = "update kv set v = v + 1 where k = $1"
)

// bed is a database with a table of 1,000 rows on a primary and two replicas, and both kinds of pools on it.
type bed struct {
	pg    *testenv.Postgres
	name  string
	db    *pool.Pool
	plain *pgxpool.Pool
}

func makeBed(b *testing.B, replicas int) *bed {
	b.Helper()
	pg, err := servers.Get()
	if err != nil {
		b.Fatal(err)
	}
	x := &bed{pg: pg}
	if x.name, err = pg.CreateDatabase(b.Context()); err != nil {
		b.Fatal(err)
	}
	x.plain = plainPool(b, pg.Primary.URL(x.name))
	o := pool.Options{MaxConns: conns, Logger: quiet}
	for _, r := range pg.Replicas[:replicas] {
		o.Replicas = append(o.Replicas, r.URL(x.name))
	}
	for _, sql := range []string{"create table kv (k bigint primary key, v bigint)", "insert into kv select i, 0 from generate_series(0, 999) i", "vacuum analyze kv"} {
		if _, err := x.plain.Exec(b.Context(), sql); err != nil {
			b.Fatal(err)
		}
	}
	if x.db, err = pool.New(b.Context(), pg.Primary.URL(x.name), o); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(x.db.Close)
	x.catchUp(b)
	return x
}

func plainPool(b *testing.B, url string) *pgxpool.Pool {
	b.Helper()
	c, err := pgxpool.ParseConfig(url)
	if err != nil {
		b.Fatal(err)
	}
	c.MaxConns = conns
	p, err := pgxpool.NewWithConfig(b.Context(), c)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Close)
	return p
}

// catchUp waits until the pool knows its replicas to have everything of now.
func (x *bed) catchUp(b *testing.B) {
	b.Helper()
	since := time.Now()
	for end := since.Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		current := true
		for _, n := range x.db.Stats().Nodes {
			current = current && n.State == "up" && n.Lag >= 0 && (n.Role == "primary" || n.Lag < time.Since(since))
		}
		if current {
			return
		}
		if time.Now().After(end) {
			b.Fatalf("%+v", x.db.Stats().Nodes)
		}
	}
}

// statements counts what the servers have completed in the bed's database.
func (x *bed) statements(b *testing.B) (n int64) {
	b.Helper()
	for _, node := range append([]*testenv.Node{x.pg.Primary}, x.pg.Replicas...) {
		c, err := node.QueryCount(context.Background(), x.name, "%")
		if err != nil {
			b.Fatal(err)
		}
		n += c
	}
	return n
}

// measure runs op and reports the servers' statements.
func (x *bed) measure(b *testing.B, op func() error) {
	b.Helper()
	before := x.statements(b)
	b.ReportAllocs()
	b.ResetTimer()
	n := 0
	for b.Loop() {
		if err := op(); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.StopTimer()
	b.ReportMetric(float64(x.statements(b)-before)/float64(n), "stmts/op")
}

func read(ctx context.Context, q querier) error {
	var v int64
	return q.QueryRow(ctx, readSQL, 7).Scan(&v)
}

// One row of the primary, and of a replica where that suffices.
func BenchmarkQueryRow(b *testing.B) {
	x := makeBed(b, 2)
	for _, c := range []struct {
		name string
		q    querier
	}{{"pgxpool", x.plain}, {"pool", x.db}, {"pool-view", x.db.ReadOnly()}, {"pool-auto", x.db.Auto()}} {
		b.Run(c.name, func(b *testing.B) {
			x.measure(b, func() error { return read(b.Context(), c.q) })
		})
	}
}

// One row under a scope that demands a position.
func BenchmarkScopedQueryRow(b *testing.B) {
	x := makeBed(b, 2)
	written := func(b *testing.B) context.Context {
		b.Helper()
		ctx, scope := causal.Begin(b.Context())
		if _, err := x.db.Exec(ctx, writeSQL, 7); err != nil {
			b.Fatal(err)
		}
		scope.Written(ctx)
		return ctx
	}
	b.Run("pool-primary", func(b *testing.B) {
		ctx := written(b)
		x.measure(b, func() error { return read(ctx, x.db) })
	})
	b.Run("pool-known", func(b *testing.B) { // the watermark suffices: nothing is checked
		ctx := written(b)
		for _, r := range x.pg.Replicas {
			if err := r.WaitReplayed(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		x.catchUp(b)
		before := x.db.Stats()
		x.measure(b, func() error { return read(ctx, x.db.ReadOnly()) })
		report(b, before, x.db.Stats())
	})
	b.Run("pool-guarded", func(b *testing.B) { // the replica has it, and says so in the same round trip
		other, err := pool.New(b.Context(), x.pg.Primary.URL(x.name), pool.Options{MaxConns: 2, Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		defer other.Close()
		before := x.db.Stats()
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			ctx, scope := causal.Begin(b.Context())
			if _, err := other.Exec(ctx, writeSQL, 7); err != nil {
				b.Fatal(err)
			}
			token := scope.Written(ctx)
			for _, r := range x.pg.Replicas {
				if err := r.WaitReplayed(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
			if ctx, err = causal.AtLeast(b.Context(), token); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
			if err := read(ctx, x.db.ReadOnly()); err != nil {
				b.Fatal(err)
			}
		}
		report(b, before, x.db.Stats())
	})
	b.Run("pool-behind", func(b *testing.B) { // no replica has it: the primary answers
		for _, r := range x.pg.Replicas {
			if err := r.PauseReplay(b.Context()); err != nil {
				b.Fatal(err)
			}
			defer r.ResumeReplay(context.Background())
		}
		ctx := written(b)
		view := x.db.ReadOnly().With(pool.ReadOptions{MaxStaleness: -1, WaitUpTo: -1})
		before := x.db.Stats()
		x.measure(b, func() error { return read(ctx, view) })
		report(b, before, x.db.Stats())
	})
}

// report says where views' reads went, and how many were checked.
func report(b *testing.B, before, after pool.Stats) {
	n := float64(after.ReadsReplica + after.ReadsPrimary - before.ReadsReplica - before.ReadsPrimary)
	b.ReportMetric(float64(after.ReadsReplica-before.ReadsReplica)/n, "replica/op")
	b.ReportMetric(float64(after.Guards-before.Guards)/n, "guards/op")
}

// A write, and a write whose position a later read needs.
func BenchmarkWrite(b *testing.B) {
	x := makeBed(b, 2)
	exec := func(ctx context.Context, q querier) error {
		_, err := q.Exec(ctx, writeSQL, 7)
		return err
	}
	b.Run("pgxpool", func(b *testing.B) { x.measure(b, func() error { return exec(b.Context(), x.plain) }) })
	b.Run("pool", func(b *testing.B) { x.measure(b, func() error { return exec(b.Context(), x.db) }) })
	b.Run("pool-auto", func(b *testing.B) { x.measure(b, func() error { return exec(b.Context(), x.db.Auto()) }) })
	b.Run("pool-captured", func(b *testing.B) { // its position is being found out when the call returns
		x.measure(b, func() error {
			ctx, _ := causal.Begin(b.Context())
			return exec(ctx, x.db)
		})
	})
	b.Run("pool-token", func(b *testing.B) { // and is waited for
		x.measure(b, func() error {
			ctx, _ := causal.Begin(b.Context())
			if err := exec(ctx, x.db); err != nil {
				return err
			}
			_, err := causal.Token(ctx)
			return err
		})
	})
}

// Reads of many goroutines.
func BenchmarkThroughput(b *testing.B) {
	run := func(b *testing.B, q querier) {
		b.ReportAllocs()
		b.SetParallelism(8)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := read(b.Context(), q); err != nil {
					b.Error(err)
					return
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
	}
	for replicas := range 3 {
		x := makeBed(b, replicas)
		if replicas == 0 {
			b.Run("pgxpool", func(b *testing.B) { run(b, x.plain) })
		}
		b.Run(fmt.Sprintf("pool-%d-replicas", replicas), func(b *testing.B) { run(b, x.db.ReadOnly()) })
	}
}

// A write and then a read of the same row from a replica. stale/1000 is how many reads missed the write.
func BenchmarkReadAfterWrite(b *testing.B) {
	x := makeBed(b, 2)
	replicas := []*pgxpool.Pool{plainPool(b, x.pg.Replicas[0].URL(x.name)), plainPool(b, x.pg.Replicas[1].URL(x.name))}
	var turn atomic.Uint64
	run := func(b *testing.B, write func() (context.Context, int64, error), q func() querier) {
		stale, n := 0, 0
		b.ReportAllocs()
		for b.Loop() {
			ctx, want, err := write()
			if err != nil {
				b.Fatal(err)
			}
			var got int64
			if err := q().QueryRow(ctx, readSQL, 9).Scan(&got); err != nil {
				b.Fatal(err)
			}
			if n++; got < want {
				stale++
			}
		}
		b.ReportMetric(1000*float64(stale)/float64(n), "stale/1000")
	}
	for _, lag := range []time.Duration{0, 100 * time.Millisecond} {
		if lag > 0 { // of the second; the first is current
			if err := x.pg.Replicas[1].SetApplyDelay(b.Context(), lag); err != nil {
				b.Fatal(err)
			}
			defer x.pg.Replicas[1].SetApplyDelay(context.Background(), 0)
		}
		b.Run(fmt.Sprintf("round-robin/lag=%v", lag), func(b *testing.B) {
			run(b, func() (ctx context.Context, v int64, err error) {
				return b.Context(), v, x.plain.QueryRow(b.Context(), writeSQL+" returning v", 9).Scan(&v)
			}, func() querier { return replicas[turn.Add(1)%2] })
		})
		b.Run(fmt.Sprintf("pool/lag=%v", lag), func(b *testing.B) {
			before := x.db.Stats()
			run(b, func() (ctx context.Context, v int64, err error) {
				ctx, _ = causal.Begin(b.Context())
				return ctx, v, x.db.QueryRow(ctx, writeSQL+" returning v", 9).Scan(&v)
			}, func() querier { return x.db.ReadOnly() })
			report(b, before, x.db.Stats())
		})
	}
}
