package pool_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
)

// A thousand callers on four connections: each has its row or the error that says why not, and none is left over.
func TestSaturationOfAThousand(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 4, AcquireTimeout: 200 * time.Millisecond})
	var rows, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			var n int
			view := db.ReadOnly()
			var q interface {
				QueryRow(context.Context, string, ...any) pgx.Row
			} = db
			if i%2 == 0 {
				q = view
			}
			err := q.QueryRow(t.Context(), "select $1::int from pg_sleep(0.002)", i).Scan(&n)
			switch {
			case err == nil && n == i:
				rows.Add(1)
			case errors.Is(err, pool.ErrSaturated) && pool.SafeToRetry(err):
				refused.Add(1)
			default:
				t.Errorf("%d: %d, %v", i, n, err)
			}
		})
	}
	wg.Wait()
	st := db.Stats()
	t.Logf("%d rows, %d refused", rows.Load(), refused.Load())
	if rows.Load()+refused.Load() != 1000 || uint64(refused.Load()) != st.Saturated {
		t.Errorf("%d rows, %d refused, %+v", rows.Load(), refused.Load(), st)
	}
	if rows.Load() == 0 || refused.Load() == 0 { // 4 connections for 200 ms at 2 ms or more: 400 of 1,000 at most
		t.Errorf("%d rows, %d refused", rows.Load(), refused.Load())
	}
	if n := st.Nodes[0]; n.InUse != 0 || n.Waiting != 0 || n.Longest != 0 {
		t.Errorf("%+v", n)
	}
}

// A pool that runs dry says who keeps its connections, and that the caller may be waiting for itself.
func TestSaturationIsExplained(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 1, AcquireTimeout: 100 * time.Millisecond})
	says := func(what string, err error, words ...string) {
		t.Helper()
		if !errors.Is(err, pool.ErrSaturated) {
			t.Errorf("%s: %v", what, err)
			return
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q is not in %v", what, w, err)
			}
		}
	}
	err := db.RunTx(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
		_, err := db.Exec(ctx, "select 1") // not tx.Exec
		return err
	}, pool.TxOptions{})
	says("RunTx", err, "inside of RunTx", "use its tx")
	err = pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		_, err := db.Exec(t.Context(), "select 1")
		return err
	})
	says("BeginFunc", err, "none came back", "TestSaturationIsExplained", "acquire_test.go:", "waits for itself")
	leak := func() pgx.Rows {
		rows, err := db.Query(t.Context(), "select generate_series(1, 100000)")
		if err != nil {
			t.Fatal(err)
		}
		return rows
	}
	rows := leak()
	other := make(chan error)
	go func() { _, err := db.Exec(t.Context(), "select 1"); other <- err }()
	says("rows that are not closed", <-other, "acquire_test.go:", "not closed")
	if n := db.Stats().Nodes[0]; n.Longest < 100*time.Millisecond || n.MaxConns != 1 {
		t.Errorf("%+v", n)
	}
	rows.Close()
	exec(t, db, "select 1")
}

// Cancelled statements cost a connection to cancel by and sometimes one to replace theirs; a server that is down costs
// attempts. Neither storms it.
func TestNoDialStorm(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	proxy, err := testenv.StartProxy(pg.Primary.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	const conns = 4
	began := time.Now()
	db := openURL(t, testenv.PostgresURL(proxy.Addr(), name), pool.Options{MaxConns: conns, FailoverTimeout: 50 * time.Millisecond, AcquireTimeout: 50 * time.Millisecond})
	hammer := func(d time.Duration, call func(ctx context.Context)) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				for ctx.Err() == nil {
					call(ctx)
				}
			})
		}
		wg.Wait()
	}
	var calls atomic.Int64
	hammer(time.Second, func(ctx context.Context) {
		short, cancel := context.WithTimeout(ctx, 3*time.Millisecond)
		defer cancel()
		calls.Add(1)
		if _, err := db.Exec(short, "select pg_sleep(60)"); err == nil {
			t.Error("slept")
		}
	})
	if err := proxy.Refuse(true); err != nil {
		t.Fatal(err)
	}
	proxy.Reset()
	hammer(time.Second, func(ctx context.Context) { calls.Add(1); _, _ = db.Exec(ctx, "select 1") })
	st := db.Stats().Nodes[0]
	elapsed := time.Since(began)
	bound := 2*conns + 16 + (5*conns+20)*elapsed.Seconds()
	t.Logf("%d calls in %v: %d dials, %d held; the bound is %.0f", calls.Load(), elapsed, st.Dials, st.Held, bound)
	if float64(st.Dials) > bound || st.Dials == 0 {
		t.Errorf("%d dials in %v: more than %.0f", st.Dials, elapsed, bound)
	}
	if accepted := proxy.Stats().Accepted; accepted > int64(st.Dials) {
		t.Errorf("%d connections came past the gate", accepted-int64(st.Dials))
	}
	if err := proxy.Refuse(false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it works again", func() error { _, err := db.Exec(t.Context(), "select 1"); return err })
}

// New warns of too many connections for the server, and of rights that a failover asks for, with the remedy.
func TestWarnings(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	warnings := func(url string, o pool.Options) string {
		var out bytes.Buffer
		var mu sync.Mutex
		o.Logger = slog.New(slog.NewTextHandler(locked{&mu, &out}, &slog.HandlerOptions{Level: slog.LevelWarn}))
		openURL(t, url, o)
		mu.Lock()
		defer mu.Unlock()
		return out.String()
	}
	if w := warnings(pg.Primary.URL(name), pool.Options{MaxConns: 2, Replicas: []string{pg.Replicas[0].URL(name)}}); w != "" {
		t.Errorf("warned of nothing: %s", w)
	}
	if w := warnings(pg.Primary.URL(name), pool.Options{MaxConns: 100, Workers: 8}); !strings.Contains(w, "max_connections") || !strings.Contains(w, "needed=1632") {
		t.Errorf("too many connections: %q", w)
	}
	admin := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 2})
	role := "weak_" + name
	exec(t, admin, "create role "+role+" login")
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), "drop role "+role); err != nil {
			t.Error(err)
		}
	})
	for _, r := range pg.Replicas {
		if err := r.WaitReplayed(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	as := func(n *testenv.Node) string {
		u, err := url.Parse(n.URL(name))
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.User(role)
		return u.String()
	}
	w := warnings(as(pg.Primary), pool.Options{MaxConns: 2, Replicas: []string{as(pg.Replicas[0])}})
	if strings.Count(w, "GRANT pg_monitor TO "+role) != 1 || strings.Count(w, "ALTER ROLE "+role+" REPLICATION") != 1 {
		t.Errorf("missing rights: %q", w)
	}
}

type locked struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (l locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// With standard_conforming_strings off a backslash hides from the lexer where a string ends, and what follows it.
func TestStringsWithBackslashes(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := openURL(t, pg.Primary.URL(name)+"&standard_conforming_strings=off", pool.Options{MaxConns: 1})
	const hidden = `select '\'', pg_advisory_lock(1) --'`
	locks := func() (n int) {
		t.Helper()
		err := db.QueryRow(t.Context(), `select count(*) from pg_locks where locktype = 'advisory' and
			database = (select oid from pg_database where datname = current_database())`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for what, err := range map[string]error{
		"view": func() error { _, err := db.ReadOnly().Exec(t.Context(), hidden); return err }(),
		"batch": func() error {
			b := &pgx.Batch{}
			b.Queue(hidden)
			return db.ReadOnly().SendBatch(t.Context(), b).Close()
		}(),
		"transaction": pgx.BeginFunc(t.Context(), db.ReadOnly(), func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), hidden)
			return err
		}),
	} {
		if !errors.Is(err, pool.ErrReadOnlyView) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := locks(); n != 0 {
		t.Errorf("views have taken %d locks", n)
	}
	if _, err := db.Auto().Exec(t.Context(), hidden); err != nil {
		t.Errorf("Auto: %v", err)
	}
	if n := locks(); n != 1 {
		t.Errorf("%d locks: the statement hides nothing, so this test could not have failed", n)
	}
	if _, err := db.ReadOnly().Exec(t.Context(), "select 'plain'"); err != nil {
		t.Error(err)
	}
}
