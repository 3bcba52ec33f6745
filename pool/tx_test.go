package pool_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

// Serializable transactions that get in each other's way are repeated until all have been applied, each once.
func TestRunTxRepeatsConflicts(t *testing.T) {
	pg := shared(t)
	db := openURL(t, pg.Primary.URL(database(t, pg)), pool.Options{MaxConns: 4, AcquireTimeout: backstop})
	exec(t, db, "create table counter (n int)")
	exec(t, db, "insert into counter values (0)")
	const workers, each = 4, 25
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				err := db.RunTx(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
					var n int
					if err := tx.QueryRow(ctx, "select n from counter").Scan(&n); err != nil {
						return err
					}
					_, err := tx.Exec(ctx, "update counter set n = $1", n+1)
					return err
				}, pool.TxOptions{IsoLevel: pgx.Serializable, MaxAttempts: 1000})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	var n int
	if err := db.QueryRow(t.Context(), "select n from counter").Scan(&n); err != nil || n != workers*each {
		t.Errorf("%d of %d increments, %v", n, workers*each, err)
	}
	if db.Stats().Retries == 0 {
		t.Error("nothing conflicted: this test could not have failed")
	}

	runs := 0
	always := func(ctx context.Context, tx pgx.Tx) error {
		runs++
		_, err := tx.Exec(ctx, "do $$begin raise serialization_failure; end$$")
		return err
	}
	if err := db.RunTx(t.Context(), always, pool.TxOptions{}); !pool.SafeToRetry(err) || runs != 5 {
		t.Errorf("%d runs, %v", runs, err)
	}
	runs = 0
	own := errors.New("the function's own")
	if err := db.RunTx(t.Context(), func(context.Context, pgx.Tx) error { runs++; return own }, pool.TxOptions{}); !errors.Is(err, own) || runs != 1 {
		t.Errorf("%d runs, %v", runs, err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic is gone")
			}
		}()
		_ = db.RunTx(t.Context(), func(context.Context, pgx.Tx) error { panic("the function's own") }, pool.TxOptions{})
	}()
	for _, n := range db.Stats().Nodes {
		if n.InUse != 0 {
			t.Errorf("%d connections are still in use", n.InUse)
		}
	}
	if err := db.RunTx(t.Context(), always, pool.TxOptions{MaxAttempts: -1}); err == nil {
		t.Error("MaxAttempts = -1 accepted")
	}
}

// An answer that is lost is an unknown outcome, and what was sent is not sent again; a transaction that loses its connection
// before COMMIT was sent is.
func TestLostAnswers(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	proxy, err := testenv.StartProxy(pg.Primary.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	db := openURL(t, testenv.PostgresURL(proxy.Addr(), name), pool.Options{MaxConns: 2})
	direct := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 2})
	exec(t, db, "create table t (what text)")
	insert := func(what string) func(ctx context.Context, tx pgx.Tx) error {
		return func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "insert into t values ($1)", what)
			return err
		}
	}
	for _, c := range []struct {
		what  string
		match string
		write func(what string) error
		want  error
		times int
	}{
		{"exec", "execmark", func(what string) error {
			_, err := db.Exec(t.Context(), "insert into t values ('exec') /* execmark */")
			return err
		}, pool.ErrOutcomeUnknown, 1},
		{"returning", "returnmark", func(what string) error {
			return db.QueryRow(t.Context(), "insert into t values ('returning') returning what /* returnmark */", pgx.QueryExecModeExec).Scan(&what)
		}, pool.ErrOutcomeUnknown, 1},
		{"batch", "batchmark", func(what string) error {
			b := &pgx.Batch{}
			b.Queue("insert into t values ($1)", what)
			b.Queue("select $1", "batchmark")
			return db.SendBatch(t.Context(), b).Close()
		}, pool.ErrOutcomeUnknown, 1},
		{"begun", "commit", func(what string) error {
			return pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error { return insert(what)(t.Context(), tx) })
		}, pool.ErrOutcomeUnknown, 1},
		{"RunTx", "commit", func(what string) error {
			return db.RunTx(t.Context(), insert(what), pool.TxOptions{})
		}, pool.ErrOutcomeUnknown, 1},
		{"RunTx, idempotent", "commit", func(what string) error {
			return db.RunTx(t.Context(), insert(what), pool.TxOptions{Idempotent: true})
		}, nil, 2},
		{"RunTx, inside", "insidemark", func(what string) error {
			return db.RunTx(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
				if err := insert(what)(ctx, tx); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, "select 'insidemark'")
				return err
			}, pool.TxOptions{})
		}, nil, 1},
		{"begin", "begin", func(what string) error {
			return pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error { return insert(what)(t.Context(), tx) })
		}, nil, 1},
	} {
		proxy.LoseReplies(1, c.match)
		lost := proxy.Stats()
		err := c.write(c.what)
		if !errors.Is(err, c.want) || pool.SafeToRetry(err) {
			t.Errorf("%s: %v", c.what, err)
		}
		if proxy.Stats() == lost {
			t.Errorf("%s: no answer was lost", c.what)
		}
		var n int
		if err := direct.QueryRow(t.Context(), "select count(*) from t where what = $1", c.what).Scan(&n); err != nil || n != c.times {
			t.Errorf("%s: written %d times, want %d (%v)", c.what, n, c.times, err)
		}
	}
	proxy.LoseReplies(1, "viewmark")
	var n int
	if err := db.ReadOnly().QueryRow(t.Context(), "select 7 /* viewmark */").Scan(&n); err != nil || n != 7 {
		t.Errorf("a view's read is tried again: %d, %v", n, err)
	}
}

// A connection handed out counts as a write until it is back, and what was done on it is in the token.
func TestAcquireUnderAScope(t *testing.T) {
	pg := shared(t)
	db := open(t, pg, database(t, pg), pool.Options{MaxConns: 4})
	exec(t, db, "create table t (n int)")
	onReplicas(t, db, 2)
	pause(t, pg.Replicas[0])
	pause(t, pg.Replicas[1])
	ctx, scope := causal.Begin(t.Context())
	count := func() (n int) {
		t.Helper()
		if err := db.ReadOnly().QueryRow(ctx, "select count(*) from t").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	conn, err := db.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := conn.Exec(t.Context(), "insert into t values (1)"); err != nil {
			t.Fatal(err)
		}
		if n := count(); n != i+1 {
			t.Errorf("%d rows while the connection is out, want %d", n, i+1)
		}
	}
	conn.Release()
	if n := count(); n != 3 {
		t.Errorf("%d rows after the release", n)
	}
	if token := scope.Written(t.Context()); token == "" {
		t.Error("the release left no position")
	}
	if n := count(); n != 3 {
		t.Errorf("%d rows once the position is known", n)
	}
	var _ *pgxpool.Conn = conn
}

// What a transaction that is rolled back has read counts, what it wrote does not.
func TestRollbackUnderAScope(t *testing.T) {
	pg := shared(t)
	db := open(t, pg, database(t, pg), pool.Options{MaxConns: 4})
	exec(t, db, "create table t (n int)")
	onReplicas(t, db, 2)
	pause(t, pg.Replicas[0])
	pause(t, pg.Replicas[1])
	exec(t, db, "insert into t values (1)")
	ctx, scope := causal.Begin(t.Context())
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRow(ctx, "select count(*) from t").Scan(&n); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := db.ReadOnly().QueryRow(ctx, "select count(*) from t").Scan(&n); err != nil || n != 1 {
		t.Errorf("the view says %d after the transaction said 1 (%v)", n, err)
	}
	if scope.Written(ctx) != "" || scope.Seen() == "" {
		t.Errorf("written %q, seen %q", scope.Written(ctx), scope.Seen())
	}
}

// A context that has ended before Commit leaves no doubt: nothing was sent, and nothing is written.
func TestCommitAfterTheContextEnded(t *testing.T) {
	pg := shared(t)
	db := openURL(t, pg.Primary.URL(database(t, pg)), pool.Options{MaxConns: 2})
	exec(t, db, "create table t (n int)")
	ctx, cancel := context.WithCancel(t.Context())
	ctx, scope := causal.Begin(ctx)
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, "insert into t values (1)"); err != nil {
		t.Fatal(err)
	}
	cancel()
	err = tx.Commit(ctx)
	if errors.Is(err, pool.ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) || !pool.SafeToRetry(err) {
		t.Errorf("%v; safe to retry: %v", err, pool.SafeToRetry(err))
	}
	if err := tx.Rollback(t.Context()); !errors.Is(err, pgx.ErrTxClosed) {
		t.Errorf("afterwards: %v", err)
	}
	if scope.Written(t.Context()) != "" {
		t.Error("it counts as written")
	}
	var n int
	if err := db.QueryRow(t.Context(), "select count(*) from t").Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows, %v", n, err)
	}
	if st := db.Stats(); st.Unknown != 0 || st.Nodes[0].InUse != 0 {
		t.Errorf("%+v", st)
	}
}

// What fn has committed itself is not run again, whatever fn says then.
func TestRunTxAfterItsOwnCommit(t *testing.T) {
	pg := shared(t)
	db := openURL(t, pg.Primary.URL(database(t, pg)), pool.Options{MaxConns: 2})
	exec(t, db, "create table t (n int)")
	err := db.RunTx(t.Context(), func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "insert into t values (1)"); err != nil {
			return err
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		_, err := db.Exec(ctx, "do $$begin raise serialization_failure; end$$")
		return err
	}, pool.TxOptions{})
	var n int
	if scan := db.QueryRow(t.Context(), "select count(*) from t").Scan(&n); scan != nil || n != 1 {
		t.Errorf("%d rows after %v (%v)", n, err, scan)
	}
	if err == nil {
		t.Error("the function's error is gone")
	}
}

// A statement that its context cuts off names the context, in transactions as outside.
func TestCutOffInTransactions(t *testing.T) {
	pg := shared(t)
	db := openURL(t, pg.Primary.URL(database(t, pg)), pool.Options{MaxConns: 2})
	const sleep = "select pg_sleep(60)"
	for how, call := range map[string]func(ctx context.Context, tx pgx.Tx) error{
		"Exec":     func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, sleep); return err },
		"QueryRow": func(ctx context.Context, tx pgx.Tx) error { return tx.QueryRow(ctx, sleep).Scan(nil) },
		"Query": func(ctx context.Context, tx pgx.Tx) error {
			rows, _ := tx.Query(ctx, sleep)
			_, err := pgx.CollectRows(rows, pgx.RowTo[any])
			return err
		},
		"SendBatch": func(ctx context.Context, tx pgx.Tx) error {
			b := &pgx.Batch{}
			b.Queue(sleep)
			return tx.SendBatch(ctx, b).Close()
		},
		"batch, Exec": func(ctx context.Context, tx pgx.Tx) error {
			b := &pgx.Batch{}
			b.Queue(sleep)
			results := tx.SendBatch(ctx, b)
			defer results.Close()
			_, err := results.Exec()
			return err
		},
		"savepoint": func(ctx context.Context, tx pgx.Tx) error {
			inner, err := tx.Begin(t.Context())
			if err != nil {
				return err
			}
			_, err = inner.Exec(ctx, sleep)
			return err
		},
	} {
		for who, begin := range map[string]func(context.Context) (pgx.Tx, error){"pool": db.Begin, "view": db.ReadOnly().Begin} {
			tx, err := begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if err := call(ctx, tx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s of a %s's transaction: %v", how, who, err)
			}
			cancel()
			tx.Rollback(t.Context())
		}
	}
}
