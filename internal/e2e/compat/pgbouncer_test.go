package compat

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

// bounced returns a pool that reaches the primary and the replica through a PgBouncer each, which has two connections to the
// server and pools a transaction at a time. Before version 1.21 it knows no prepared statements, so pgx must not use them.
func bounced(t *testing.T) (*pool.Pool, *testenv.Postgres) {
	t.Helper()
	pg, name := database(t)
	return bouncedOn(t, pg, name), pg
}

func bouncedOn(t *testing.T, pg *testenv.Postgres, name string) *pool.Pool {
	t.Helper()
	var urls []string
	for _, n := range []*testenv.Node{pg.Primary, pg.Replicas[0]} {
		b, err := testenv.StartPgBouncer(t.Context(), n.Addr(), testenv.PgBouncerOptions{Settings: map[string]string{"default_pool_size": "2"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
		urls = append(urls, b.URL(name)+"&default_query_exec_mode=exec")
	}
	db, err := pool.New(t.Context(), urls[0], pool.Options{Replicas: urls[1:], MaxConns: 6})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	current(t, db)
	return db
}

func TestPgBouncerInTransactionMode(t *testing.T) {
	db, _ := bounced(t)
	exec := func(ctx context.Context, sql string, args ...any) {
		t.Helper()
		if _, err := db.Exec(ctx, sql, args...); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	exec(t.Context(), "create table kv (k int primary key, v int)")
	exec(t.Context(), "insert into kv select i, 0 from generate_series(1, 20) i")

	// More clients than server connections, so statements of one client connection run on several: each reads its writes.
	var wg sync.WaitGroup
	for k := 1; k <= 6; k++ {
		wg.Go(func() {
			for v := 1; v <= 50; v++ {
				ctx, _ := causal.Begin(t.Context())
				if _, err := db.Exec(ctx, "update kv set v = $2 where k = $1", k, v); err != nil {
					t.Error(err)
					return
				}
				var got int
				if err := db.ReadOnly().QueryRow(ctx, "select v from kv where k = $1", k).Scan(&got); err != nil || got < v {
					t.Errorf("read %d after writing %d, %v", got, v, err)
					return
				}
				if err := db.Auto().QueryRow(ctx, "select v from kv where k = $1", k).Scan(&got); err != nil || got < v {
					t.Errorf("read %d after writing %d, %v", got, v, err)
					return
				}
			}
		})
	}
	wg.Wait()
	// The replica's connections tell that something stands between, so each read there asks the server that it got.
	if st := db.Stats(); st.ReadsReplica == 0 || st.Guards < st.ReadsReplica-6 {
		t.Errorf("%d reads were served by the replica, %d asked it", st.ReadsReplica, st.Guards)
	}
	for _, n := range db.Stats().Nodes {
		if !n.Several {
			t.Errorf("nothing is seen to stand before %s", n.Name)
		}
	}

	// Views are read-only there too, and leave nothing behind on the server's connections that others get.
	for range 10 {
		if _, err := db.ReadOnly().Exec(t.Context(), "with x as (update kv set v = -1 returning v) select v from x"); !errors.Is(err, pool.ErrReadOnlyView) {
			t.Errorf("a write through a view: %v", err)
		}
		exec(t.Context(), "update kv set v = 100 where k = 20")
	}

	// Transactions, batches and copies.
	err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "update kv set v = v + 1 where k = $1", 20)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	ctx, _ := causal.Begin(t.Context())
	b := &pgx.Batch{}
	b.Queue("update kv set v = v + 1 where k = $1", 20)
	b.Queue("select v from kv where k = $1", 20)
	r := db.SendBatch(ctx, b)
	var v int
	if _, err := r.Exec(); err != nil {
		t.Error(err)
	}
	if err := r.QueryRow().Scan(&v); err != nil || v != 102 {
		t.Errorf("%d, %v", v, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if n, err := db.CopyFrom(ctx, pgx.Identifier{"kv"}, []string{"k", "v"}, pgx.CopyFromRows([][]any{{30, 1}, {31, 2}})); err != nil || n != 2 {
		t.Errorf("%d, %v", n, err)
	}
	err = pgx.BeginFunc(ctx, db.ReadOnly(), func(tx pgx.Tx) error {
		for range 3 { // one server connection for the whole transaction
			if err := tx.QueryRow(ctx, "select count(*) from kv").Scan(&v); err != nil || v != 22 {
				return fmt.Errorf("%d, %w", v, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	err = db.RunTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "update kv set v = 7 where k = 30")
		return err
	}, pool.TxOptions{IsoLevel: pgx.Serializable})
	if err != nil {
		t.Error(err)
	}
	if err := db.ReadOnly().QueryRow(ctx, "select v from kv where k = 30").Scan(&v); err != nil || v != 7 {
		t.Errorf("%d, %v", v, err)
	}
}

// A replica behind a PgBouncer that is paused serves nothing that a scope has written since.
func TestPgBouncerWithAPausedReplica(t *testing.T) {
	db, pg := bounced(t)
	if _, err := db.Exec(t.Context(), "create table kv (k int primary key, v int)"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(t.Context(), "insert into kv values (1, 0)"); err != nil {
		t.Fatal(err)
	}
	current(t, db)
	t.Cleanup(func() {
		if err := pg.Replicas[0].ResumeReplay(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := pg.Replicas[0].PauseReplay(t.Context()); err != nil {
		t.Fatal(err)
	}
	for want := 1; want <= 20; want++ {
		ctx, _ := causal.Begin(t.Context())
		if _, err := db.Exec(ctx, "update kv set v = $1 where k = 1", want); err != nil {
			t.Fatal(err)
		}
		var got int
		if err := db.ReadOnly().QueryRow(ctx, "select v from kv where k = 1").Scan(&got); err != nil || got != want {
			t.Errorf("read %d after writing %d, %v", got, want, err)
		}
	}
	var old int
	if err := db.ReadOnly().QueryRow(t.Context(), "select v from kv where k = 1").Scan(&old); err != nil || old != 0 {
		t.Errorf("without a scope the replica answers as it is: %d, %v", old, err)
	}
}

// Behind a PgBouncer servers are restarted and nobody's connection ends. The pool finds the new run all the same, and a scope's
// reads are never behind it.
func TestPgBouncerOverRestarts(t *testing.T) {
	pg, err := testenv.StartPostgres(t.Context(), testenv.PostgresOptions{Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close()
	db := bouncedOn(t, pg, "postgres")
	write := func(ctx context.Context, sql string, args ...any) {
		t.Helper()
		eventually(t, sql, func() error {
			_, err := db.Exec(ctx, sql, args...)
			return err
		})
	}
	write(t.Context(), "create table if not exists kv (k int primary key, v int)")
	write(t.Context(), "insert into kv values (1, 0) on conflict do nothing")
	ctx, _ := causal.Begin(t.Context())
	wrote := 0
	for _, n := range []*testenv.Node{pg.Replicas[0], pg.Primary, pg.Replicas[0]} {
		for range 20 {
			wrote++
			write(ctx, "update kv set v = $1 where k = 1", wrote)
		}
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			var got int
			eventually(t, "a read", func() error {
				return db.ReadOnly().QueryRow(ctx, "select v from kv where k = 1").Scan(&got)
			})
			if got != wrote {
				t.Errorf("after a restart, read %d sees %d, want %d", i, got, wrote)
			}
		}
	}
	eventually(t, "the primary's restart is seen by a probe", func() error {
		if st := db.Stats(); st.Epoch < 2 {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
}
