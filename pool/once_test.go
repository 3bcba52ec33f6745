package pool_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

// A transaction with a key is applied once: when the answer to its COMMIT is lost, when it is asked for again, and when many
// ask at the same time.
func TestOnce(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	proxy, err := testenv.StartProxy(pg.Primary.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	db := openURL(t, testenv.PostgresURL(proxy.Addr(), name), pool.Options{MaxConns: 4, AcquireTimeout: backstop})
	exec(t, db, "create table t (what text not null)")
	add := func(what string) func(ctx context.Context, tx pgx.Tx) error {
		return func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "insert into t values ($1)", what)
			return err
		}
	}
	err = db.RunTx(t.Context(), add("none"), pool.TxOptions{Once: "k"})
	if err == nil || !strings.Contains(err.Error(), "pool.Schema") {
		t.Errorf("without the ledger: %v", err)
	}
	exec(t, db, pool.Schema)
	exec(t, db, pool.Schema)
	times := func(what string, want int) {
		t.Helper()
		var n int
		if err := db.QueryRow(t.Context(), "select count(*) from t where what = $1", what).Scan(&n); err != nil || n != want {
			t.Errorf("%s: applied %d times, want %d (%v)", what, n, want, err)
		}
	}
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.Serializable} {
		what := string(level)
		proxy.LoseReplies(1, "commit")
		dropped := proxy.Stats().Dropped
		ctx, scope := causal.Begin(t.Context())
		if err := db.RunTx(ctx, add(what), pool.TxOptions{Once: what, IsoLevel: level}); err != nil {
			t.Errorf("%s: the answer to COMMIT was lost: %v", what, err)
		}
		if proxy.Stats().Dropped == dropped {
			t.Errorf("%s: no answer was lost", what)
		}
		if scope.Written(t.Context()) == "" {
			t.Errorf("%s: the scope knows of no write", what)
		}
		times(what, 1)
		err := db.RunTx(t.Context(), func(context.Context, pgx.Tx) error { t.Error("run again"); return nil }, pool.TxOptions{Once: what})
		if err != nil {
			t.Errorf("%s: asked for again: %v", what, err)
		}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				o := pool.TxOptions{Once: what + ", by many", IsoLevel: level, MaxAttempts: 1000}
				if err := db.RunTx(t.Context(), add(what+", by many"), o); err != nil {
					t.Errorf("%s: by many: %v", what, err)
				}
			})
		}
		wg.Wait()
		times(what+", by many", 1)
	}
	own := errors.New("the function's own")
	if err := db.RunTx(t.Context(), func(context.Context, pgx.Tx) error { return own }, pool.TxOptions{Once: "own"}); !errors.Is(err, own) {
		t.Errorf("the function's error: %v", err)
	}
	if err := db.RunTx(t.Context(), add("own"), pool.TxOptions{Once: "own"}); err != nil {
		t.Errorf("after the function's error: %v", err)
	}
	times("own", 1)
	// The primary is out of reach from the lost answer on: the outcome stays unknown, and is not called safe to retry.
	held := false
	short := openURL(t, testenv.PostgresURL(proxy.Addr(), name), pool.Options{MaxConns: 2, FailoverTimeout: -1})
	err = short.RunTx(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
		held = true
		err := add("unreachable")(ctx, tx)
		if err := proxy.Refuse(true); err != nil {
			t.Error(err)
		}
		proxy.LoseReplies(1, "commit")
		return err
	}, pool.TxOptions{Once: "unreachable"})
	if !held || !errors.Is(err, pool.ErrOutcomeUnknown) || pool.SafeToRetry(err) {
		t.Errorf("out of reach: %v", err)
	}
	if err := proxy.Refuse(false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the primary is found again", func() error { return short.RunTx(t.Context(), add("unreachable"), pool.TxOptions{Once: "unreachable"}) })
	times("unreachable", 1)
	for _, o := range []pool.TxOptions{{Once: strings.Repeat("x", 1025)}, {Once: "\xff"}, {Once: "a\x00b"}, {Once: "k", AccessMode: pgx.ReadOnly}, {MaxAttempts: -1}} {
		if err := db.RunTx(t.Context(), add("bad"), o); err == nil || !strings.HasPrefix(err.Error(), "pool: TxOptions.") {
			t.Errorf("%q %q: %v", o.Once, o.AccessMode, err)
		}
	}
	times("bad", 0)
}

// A COMMIT whose answer was lost, and then its primary with it, is resolved on the new primary: what has survived is not
// applied again, what has not is.
func TestOnceSurvivesFailover(t *testing.T) {
	pg := own(t, testenv.PostgresOptions{Replicas: 1})
	name := database(t, pg)
	proxy, err := testenv.StartProxy(pg.Primary.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	db := openURL(t, testenv.PostgresURL(proxy.Addr(), name), pool.Options{MaxConns: 4, FailoverTimeout: backstop, Replicas: []string{pg.Replicas[0].URL(name)}})
	exec(t, db, "create table t (what text not null, runs int)")
	exec(t, db, pool.Schema)
	onReplicas(t, db, 1)

	type call struct {
		runs    int
		reached chan struct{}
		commit  chan struct{}
		done    chan error
	}
	begin := func(what string) *call {
		c := &call{reached: make(chan struct{}), commit: make(chan struct{}), done: make(chan error, 1)}
		go func() {
			c.done <- db.RunTx(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
				c.runs++
				_, err := tx.Exec(ctx, "insert into t values ($1, $2)", what, c.runs)
				if c.runs == 1 {
					close(c.reached)
					<-c.commit
				}
				return err
			}, pool.TxOptions{Once: what})
		}()
		<-c.reached
		return c
	}
	kept, lost := begin("kept"), begin("lost")
	if err := proxy.Refuse(true); err != nil { // who loses a connection now gets no other
		t.Fatal(err)
	}
	commit := func(c *call) {
		dropped := proxy.Stats().Dropped
		proxy.LoseReplies(1, "commit")
		close(c.commit)
		eventually(t, "the answer is lost", func() error { return enough(int(proxy.Stats().Dropped-dropped), 1) })
	}
	commit(kept)
	if err := pg.Replicas[0].WaitReplayed(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := pg.Replicas[0].Kill(); err != nil {
		t.Fatal(err)
	}
	commit(lost)
	if err := pg.Primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := pg.Replicas[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := pg.Replicas[0].Promote(t.Context()); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]*call{"kept": kept, "lost": lost} {
		if err := <-c.done; err != nil {
			t.Errorf("%s: %v", what, err)
		}
		var n, run int
		if err := db.QueryRow(t.Context(), "select count(*), max(runs) from t where what = $1", what).Scan(&n, &run); err != nil || n != 1 || run != c.runs {
			t.Errorf("%s: there %d times, from run %d of %d (%v)", what, n, run, c.runs, err)
		}
	}
	if kept.runs != 1 || lost.runs != 2 {
		t.Errorf("what survived ran %d times, what was lost %d", kept.runs, lost.runs)
	}
}

// Now is past what others have committed, so a read with it sees that on a replica too.
func TestNow(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := open(t, pg, name, pool.Options{MaxConns: 2})
	exec(t, db, "create table t (n int not null)")
	exec(t, db, "insert into t values (0)")
	onReplicas(t, db, 2)
	pause(t, pg.Replicas[0])
	other, err := pgx.Connect(t.Context(), pg.Primary.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	for i := range 200 {
		if _, err := other.Exec(t.Context(), "update t set n = $1", i+1); err != nil {
			t.Fatal(err)
		}
		token, err := db.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, err := causal.AtLeast(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		var n int
		if err := db.ReadOnly().QueryRow(ctx, "select n from t").Scan(&n); err != nil || n != i+1 {
			t.Fatalf("round %d: %d, %v", i, n, err)
		}
	}
	if st := db.Stats(); st.ReadsReplica < 50 {
		t.Errorf("replicas served %d of 200", st.ReadsReplica)
	}
	db.Close()
	if _, err := db.Now(t.Context()); !errors.Is(err, pool.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// LeaderPool is the primary's pgxpool, and its users cannot starve the pool's own calls beyond AcquireTimeout.
func TestLeaderPool(t *testing.T) {
	pg := shared(t)
	db := openURL(t, pg.Primary.URL(database(t, pg)), pool.Options{MaxConns: 2, AcquireTimeout: 200 * time.Millisecond})
	plain, err := db.LeaderPool(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var conns []interface{ Release() }
	for range 2 {
		c, err := plain.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if _, err := db.Exec(t.Context(), "select 1"); !errors.Is(err, pool.ErrSaturated) {
		t.Errorf("with all connections lent: %v", err)
	}
	for _, c := range conns {
		c.Release()
	}
	exec(t, db, "select 1")
	db.Close()
	if _, err := plain.Exec(t.Context(), "select 1"); err == nil {
		t.Error("the pgxpool outlives the pool")
	}
	if _, err := db.LeaderPool(t.Context()); !errors.Is(err, pool.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
