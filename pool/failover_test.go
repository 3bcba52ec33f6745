package pool_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

func own(t *testing.T, o testenv.PostgresOptions) *testenv.Postgres {
	t.Helper()
	pg, err := testenv.StartPostgres(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	return pg
}

func port(t *testing.T, n *testenv.Node) int {
	t.Helper()
	_, p, err := net.SplitHostPort(n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

// ledger keeps writing numbered rows, each number once, and reading through a view, and remembers what it was told.
type ledger struct {
	db      *pool.Pool
	mu      sync.Mutex
	by      map[int][]int64 // numbers acknowledged, by the port of the server that did
	unknown []int64
	refused []int64 // safe to retry, they say
	other   []error
	reads   atomic.Int64
	failed  atomic.Pointer[error] // read
	next    atomic.Int64
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

func keepLedger(t *testing.T, db *pool.Pool) *ledger {
	exec(t, db, "create table ledger (n bigint not null)")
	ctx, stop := context.WithCancel(t.Context())
	l := &ledger{db: db, by: make(map[int][]int64), stop: stop}
	for range 3 {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				l.write()
			}
		})
	}
	return l
}

// read adds readers of the view.
func (l *ledger) read(ctx context.Context) {
	for range 2 {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				var n int64
				err := l.db.ReadOnly().QueryRow(ctx, "select count(*) from (select from ledger limit 10) x").Scan(&n)
				if err != nil && ctx.Err() == nil {
					l.failed.CompareAndSwap(nil, &err)
				}
				l.reads.Add(1)
			}
		})
	}
}

func (l *ledger) write() {
	n := l.next.Add(1)
	var port int
	// Not bound by ctx: whatever happens has to end by itself.
	err := l.db.QueryRow(context.Background(), "insert into ledger values ($1) returning inet_server_port()", n).Scan(&port)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.by[port] = append(l.by[port], n)
	case errors.Is(err, pool.ErrOutcomeUnknown):
		l.unknown = append(l.unknown, n)
	case pool.SafeToRetry(err):
		l.refused = append(l.refused, n)
	default:
		l.other = append(l.other, err)
	}
}

func (l *ledger) acknowledged(port int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.by[port])
}

// close stops and checks: what the server at port acknowledged is there, nothing is there twice, and what was refused is not.
func (l *ledger) close(t *testing.T, port int) {
	t.Helper()
	l.stop()
	l.wg.Wait()
	rows, _ := l.db.Query(t.Context(), "select n, count(*) from ledger group by n")
	found := make(map[int64]int64)
	var n, times int64
	if _, err := pgx.ForEachRow(rows, []any{&n, &times}, func() error {
		found[n] = times
		if times != 1 {
			t.Errorf("%d was written %d times", n, times)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, n := range l.by[port] {
		if found[n] == 0 {
			t.Errorf("%d was acknowledged by the new primary and is not there", n)
		}
	}
	for _, n := range l.refused {
		if found[n] != 0 {
			t.Errorf("%d was refused as safe to retry and is there", n)
		}
	}
	for _, err := range l.other {
		t.Errorf("a write failed without saying what became of it: %v", err)
	}
	t.Logf("%d written, %d acknowledged by the new primary, %d unknown, %d refused; %d reads", l.next.Load(), len(l.by[port]),
		len(l.unknown), len(l.refused), l.reads.Load())
}

// The primary is killed and a replica promoted: writes resume there by themselves, once each, and reads go on throughout.
// Then that primary is frozen, so that nothing answers and nothing fails, and the other replica promoted: writes resume
// there, those that hung come to an end, and when the old primary thaws, nothing that begins then reaches it.
func TestFailover(t *testing.T) {
	pg := own(t, testenv.PostgresOptions{Replicas: 2})
	name := database(t, pg)
	db := open(t, pg, name, pool.Options{MaxConns: 8, FailoverTimeout: backstop})
	first, second, third := pg.Primary, pg.Replicas[0], pg.Replicas[1]
	l := keepLedger(t, db)
	onReplicas(t, db, 2)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l.read(ctx)
	eventually(t, "writes before", func() error { return enough(l.acknowledged(port(t, first)), 50) })

	if err := first.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := second.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	promoted := time.Now()
	eventually(t, "writes resume", func() error { return enough(l.acknowledged(port(t, second)), 1) })
	t.Logf("killed: writes resumed %v after the promotion", time.Since(promoted))
	if err := third.Follow(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	eventually(t, "writes after", func() error { return enough(l.acknowledged(port(t, second)), 50) })
	// Replicas of the new timeline serve scoped reads again.
	scoped := func(ctx context.Context) error {
		var n int
		return db.ReadOnly().With(pool.ReadOptions{RequireReplica: true, WaitUpTo: time.Second}).
			QueryRow(ctx, "select 1 from ledger where n = -1").Scan(&n)
	}
	writer, _ := causal.Begin(t.Context())
	if _, err := db.Exec(writer, "insert into ledger values (-1)"); err != nil {
		t.Fatal(err)
	}
	if _, err := causal.Token(writer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a scoped read on a replica", func() error { return scoped(writer) })
	stop()
	if err := l.failed.Load(); err != nil {
		t.Errorf("a read failed: %v", *err)
	}
	if st := db.Stats(); st.Failovers != 1 || st.Epoch != 2 {
		t.Errorf("%d failovers, epoch %d", st.Failovers, st.Epoch)
	}

	if err := second.Freeze(); err != nil {
		t.Fatal(err)
	}
	defer second.Thaw()
	if err := third.Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	promoted = time.Now()
	eventually(t, "writes resume", func() error { return enough(l.acknowledged(port(t, third)), 1) })
	t.Logf("frozen: writes resumed %v after the promotion", time.Since(promoted))
	old := l.next.Load() // what has a higher number began after the new epoch was seen
	if err := second.Thaw(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old primary is fenced", func() error {
		for _, n := range db.Stats().Nodes {
			if n.State == "fenced" {
				return nil
			}
		}
		return fmt.Errorf("%+v", db.Stats().Nodes)
	})
	after := l.acknowledged(port(t, third))
	eventually(t, "writes after", func() error { return enough(l.acknowledged(port(t, third)), after+200) })
	l.close(t, port(t, third))
	conn, err := pgx.Connect(t.Context(), second.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var late int
	if err := conn.QueryRow(t.Context(), "select count(*) from ledger where n > $1", old).Scan(&late); err != nil || late != 0 {
		t.Errorf("%d writes that began after the new primary was seen reached the old one (%v)", late, err)
	}
}

// A write that died with its primary is not silently missing: its scope is told once, and goes on.
func TestLostWrite(t *testing.T) {
	pg := own(t, testenv.PostgresOptions{Replicas: 1})
	db := open(t, pg, database(t, pg), pool.Options{MaxConns: 4, FailoverTimeout: backstop})
	exec(t, db, "create table t (n int)")
	onReplicas(t, db, 1)
	kept, _ := causal.Begin(t.Context())
	if _, err := db.Exec(kept, "insert into t values (1)"); err != nil {
		t.Fatal(err)
	}
	if _, err := causal.Token(kept); err != nil {
		t.Fatal(err)
	}
	if err := pg.Replicas[0].WaitReplayed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := pg.Replicas[0].Kill(); err != nil { // it receives nothing now
		t.Fatal(err)
	}
	lost, scope := causal.Begin(t.Context())
	if _, err := db.Exec(lost, "insert into t values (2)"); err != nil {
		t.Fatal(err)
	}
	if _, err := causal.Token(lost); err != nil {
		t.Fatal(err)
	}
	if err := pg.Primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := pg.Replicas[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := pg.Replicas[0].Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new primary", func() error {
		if st := db.Stats(); st.Epoch != 2 || st.NoPrimary {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	var n int
	count := func(ctx context.Context) error {
		return db.ReadOnly().QueryRow(ctx, "select count(*) from t").Scan(&n)
	}
	var e *pool.CausalityLostError
	if err := count(lost); !errors.As(err, &e) || !e.Proven {
		t.Errorf("the lost write: %v, %d rows", err, n)
	}
	if err := count(lost); err != nil || n != 1 {
		t.Errorf("after it was told: %v, %d rows", err, n)
	}
	// What it carries to its next request does not say so again.
	next, err := causal.AtLeast(t.Context(), scope.Written(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	if err := count(next); err != nil {
		t.Errorf("in the next request: %v", err)
	}
	if err := count(kept); err != nil || n != 1 {
		t.Errorf("the write that survived: %v, %d rows", err, n)
	}
}

// A primary that comes back by itself, and a replica that goes away and comes back: no epoch and no read is lost.
func TestRestarts(t *testing.T) {
	pg := shared(t)
	db := open(t, pg, database(t, pg), pool.Options{MaxConns: 8, FailoverTimeout: backstop})
	l := keepLedger(t, db)
	onReplicas(t, db, 2)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	l.read(ctx)
	for _, r := range pg.Replicas {
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
		reads := l.reads.Load()
		eventually(t, "reads go on", func() error { return enough(int(l.reads.Load()-reads), 200) })
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	onReplicas(t, db, 2)
	defer pg.Replicas[0].Thaw()
	if err := pg.Replicas[0].Freeze(); err != nil { // reads that wait there have no deadline of their own
		t.Fatal(err)
	}
	eventually(t, "the frozen replica is found out", func() error {
		down := 0
		for _, n := range db.Stats().Nodes {
			if n.State == "down" && n.InUse == 0 {
				down++
			}
		}
		return enough(down, 1)
	})
	reads := l.reads.Load()
	eventually(t, "reads go on", func() error { return enough(int(l.reads.Load()-reads), 200) })
	if err := pg.Replicas[0].Thaw(); err != nil {
		t.Fatal(err)
	}
	onReplicas(t, db, 2)
	if err := pg.Primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := pg.Primary.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	was := l.acknowledged(port(t, pg.Primary))
	eventually(t, "writes resume", func() error { return enough(l.acknowledged(port(t, pg.Primary)), was+50) })
	stop()
	if err := l.failed.Load(); err != nil {
		t.Errorf("a read failed: %v", *err)
	}
	l.close(t, port(t, pg.Primary))
	if st := db.Stats(); st.Epoch != 2 {
		t.Errorf("epoch %d after a restart of the primary", st.Epoch)
	}
}

// alter changes a setting of the shared primary until the test ends.
func alter(t *testing.T, db *pool.Pool, setting, value string) {
	t.Helper()
	var was string
	reload := func(ctx context.Context, how string) error {
		if _, err := db.Exec(ctx, how); err != nil {
			return err
		}
		_, err := db.Exec(ctx, "select pg_reload_conf()")
		return err
	}
	if err := db.QueryRow(t.Context(), "select current_setting($1)", setting).Scan(&was); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reload(context.Background(), "alter system reset "+setting); err != nil {
			t.Error(err)
		}
	})
	if err := reload(t.Context(), "alter system set "+setting+" = "+value); err != nil {
		t.Fatal(err)
	}
	eventually(t, "set "+setting, func() error {
		var now string
		if err := db.QueryRow(t.Context(), "select current_setting($1)", setting).Scan(&now); err != nil {
			return err
		}
		if now == was {
			return errors.New(now)
		}
		return nil
	})
}

func enough(got, want int) error {
	if got < want {
		return fmt.Errorf("%d of %d", got, want)
	}
	return nil
}

// Nobody answers: calls end with the error that says so.
func TestNoPrimary(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for _, addr := range []string{"127.0.0.1:1", listener.Addr().String()} {
		db := openURL(t, "postgres://u@"+addr+"/db?sslmode=disable", pool.Options{FailoverTimeout: 300 * time.Millisecond})
		if _, err := db.Exec(t.Context(), "select 1"); !errors.Is(err, pool.ErrNoPrimary) || !pool.SafeToRetry(err) {
			t.Errorf("%s: Exec: %v", addr, err)
		}
		if _, err := db.Begin(t.Context()); !errors.Is(err, pool.ErrNoPrimary) {
			t.Errorf("%s: Begin: %v", addr, err)
		}
		if _, err := db.ReadOnly().Exec(t.Context(), "select 1"); !errors.Is(err, pool.ErrStale) {
			t.Errorf("%s: view: %v", addr, err)
		}
		if err := db.Ping(t.Context()); !errors.Is(err, pool.ErrNoPrimary) {
			t.Errorf("%s: Ping: %v", addr, err)
		}
		if db.Stat() != nil {
			t.Errorf("%s: there is a Stat of no pool", addr)
		}
		db.Close()
	}
}

// A wait for a synchronous standby that the context cut off is not a success: pgx alone reports none of it.
func TestSynchronousWaitCutOff(t *testing.T) {
	pg := shared(t)
	db := openURL(t, pg.Primary.URL(database(t, pg)), pool.Options{MaxConns: 2})
	exec(t, db, "create table t (n int)")
	alter(t, db, "synchronous_standby_names", "'*'")
	for _, r := range pg.Replicas {
		defer r.Thaw()
		if err := r.Freeze(); err != nil {
			t.Fatal(err)
		}
	}
	for i, write := range []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := db.Exec(ctx, "insert into t values (1)"); return err },
		func(ctx context.Context) error { _, err := db.Exec(ctx, "insert into t values ($1)", 1); return err },
		func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "insert into t values (1)")
				return err
			})
		},
		func(ctx context.Context) error {
			var n int
			return db.QueryRow(ctx, "insert into t values (1) returning n").Scan(&n)
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if err := write(ctx); !errors.Is(err, pool.ErrOutcomeUnknown) {
			t.Errorf("write %d: %v", i, err)
		}
		cancel()
	}
}
