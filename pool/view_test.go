package pool_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

// querier is what sqlc, scany and pgx's helpers ask for.
type querier interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	Query(context.Context, string, ...any) (pgx.Rows, error)
	QueryRow(context.Context, string, ...any) pgx.Row
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
	CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
	Begin(context.Context) (pgx.Tx, error)
	BeginTx(context.Context, pgx.TxOptions) (pgx.Tx, error)
}

var (
	_ querier = (*pgxpool.Pool)(nil)
	_ querier = (*pool.Pool)(nil)
	_ querier = pool.View{}
	_ interface {
		querier
		Acquire(context.Context) (*pgxpool.Conn, error)
		AcquireFunc(context.Context, func(*pgxpool.Conn) error) error
		Stat() *pgxpool.Stat
		Reset()
		Ping(context.Context) error
		Close()
	} = (*pool.Pool)(nil)
)

const wide = `select g::int2 as a, g::int4 as b, g::int8 as c, g::float8 / 3 as d, 'text ' || g as e, (g || '.50')::numeric as f,
	timestamptz '2026-01-02 03:04:05+00' + g * interval '1 hour' as g, array[g, g + 1] as h, jsonb_build_object('n', g) as i,
	nullif(g, 2) as j, '\xdead'::bytea as k, g = 1 as l, point(g, 1) as m, '1/A'::pg_lsn as n
	from generate_series(1, 3) g`

// everything reads sql through every door of pgx that returns rows, and returns what came out.
func everything(ctx context.Context, q querier, sql string, args ...any) (out []any) {
	note := func(v any, err error) {
		if err != nil {
			var pg *pgconn.PgError
			if errors.As(err, &pg) {
				out = append(out, pg.Code)
				return
			}
			out = append(out, err.Error())
			return
		}
		out = append(out, v)
	}
	rows, _ := q.Query(ctx, sql, args...)
	maps, err := pgx.CollectRows(rows, pgx.RowToMap)
	note(maps, err)
	note(rows.CommandTag().String(), nil)

	rows, _ = q.Query(ctx, sql, args...)
	for rows.Next() {
		values, err := rows.Values()
		note(values, err)
		for _, raw := range rows.RawValues() {
			note(string(raw), nil)
		}
		note(len(rows.FieldDescriptions()), nil)
	}
	note("end", rows.Err())

	rows, _ = q.Query(ctx, sql, args...) // closed early
	note(rows.Next(), nil)
	rows.Close()
	rows.Close()
	note(rows.CommandTag().RowsAffected(), rows.Err())

	rows, _ = q.Query(ctx, sql, args...) // scanned into what does not fit
	var a, b struct{ never int }
	if rows.Next() {
		if err := rows.Scan(&a, &b); err == nil {
			note("no error", nil)
		}
	}
	rows.Close()
	note("scan", errors.Join(rows.Err()))

	var first pgtype.Int8
	note("row", q.QueryRow(ctx, sql, args...).Scan(append([]any{&first}, make([]any, 13)...)...))
	note(first, nil)
	tag, err := q.Exec(ctx, sql, args...)
	note(tag.String(), err)

	batch := &pgx.Batch{}
	batch.Queue(sql, args...)
	batch.Queue("select 7 as n where $1", true)
	br := q.SendBatch(ctx, batch)
	rows, _ = br.Query()
	maps, err = pgx.CollectRows(rows, pgx.RowToMap)
	note(maps, err)
	var n int
	err = br.QueryRow().Scan(&n)
	note("batch row", err)
	note(n, nil)
	if err == nil {
		_, err = br.Exec()
		note("one too many", err)
	}
	note("close", br.Close())

	tx, err := q.Begin(ctx)
	if err != nil {
		note(nil, err)
		return out
	}
	rows, _ = tx.Query(ctx, sql, args...)
	maps, err = pgx.CollectRows(rows, pgx.RowToMap)
	note(maps, err)
	note("tx", tx.Rollback(ctx))
	note(errors.Is(tx.Rollback(ctx), pgx.ErrTxClosed) && errors.Is(tx.Commit(ctx), pgx.ErrTxClosed), nil)
	return out
}

// A view's results, and the pool's, are pgxpool's to the last value, with and without a scope, in every mode of pgx.
func TestResultsArePgxpools(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe,
		pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			config := func(n string) *pgxpool.Config {
				c, err := pgxpool.ParseConfig(n)
				if err != nil {
					t.Fatal(err)
				}
				c.ConnConfig.DefaultQueryExecMode = mode
				c.MaxConns = 2
				return c
			}
			plain, err := pgxpool.NewWithConfig(t.Context(), config(pg.Primary.URL(name)))
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			db, err := pool.NewWithConfig(t.Context(), config(pg.Primary.URL(name)), pool.Options{Replicas: []string{pg.Replicas[0].URL(name)}})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			onReplicas(t, db, 1)
			scoped, _ := causal.Begin(t.Context())
			for _, c := range []struct {
				sql  string
				args []any
			}{
				{wide, nil},
				{wide + " where g < $1", []any{3}},
				{wide + " where g < @most", []any{pgx.NamedArgs{"most": 3}}},
				{wide + " where g < $1", []any{0}},
				{wide + " where g / (g - $1) < 10", []any{3}},
				{"select nonsense", nil},
				{"select", nil},
			} {
				want := everything(t.Context(), plain, c.sql, c.args...)
				for who, q := range map[string]querier{"pool": db, "view": db.ReadOnly()} {
					for scope, ctx := range map[string]context.Context{"no scope": t.Context(), "scope": scoped} {
						got := everything(ctx, q, c.sql, c.args...)
						if len(got) != len(want) {
							t.Fatalf("%s, %s: %s\n got %d results: %v\nwant %d: %v", who, scope, c.sql, len(got), got, len(want), want)
						}
						for i := range want {
							if !reflect.DeepEqual(got[i], want[i]) {
								t.Errorf("%s, %s: %s %v: result %d\n got %v\nwant %v", who, scope, c.sql, c.args, i, got[i], want[i])
							}
						}
					}
				}
			}
			for _, n := range db.Stats().Nodes {
				if n.InUse != 0 || n.Waiting != 0 {
					t.Errorf("%s has %d connections in use, %d waiting", n.Name, n.InUse, n.Waiting)
				}
			}
		})
	}
}

// Options before the arguments, which pgx does not take in a batch.
func TestQueryOptions(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := open(t, pg, name, pool.Options{MaxConns: 2})
	onReplicas(t, db, 2)
	ctx, scope := causal.Begin(t.Context())
	for _, option := range []any{pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol, pgx.QueryResultFormats{pgx.TextFormatCode}} {
		rows, err := db.ReadOnly().Query(ctx, "select $1::int4", option, 5)
		if err != nil {
			t.Fatalf("%T: %v", option, err)
		}
		if !rows.Next() || rows.FieldDescriptions()[0].Format != pgx.TextFormatCode || string(rows.RawValues()[0]) != "5" {
			t.Errorf("%T: format %v, %q", option, rows.FieldDescriptions(), rows.RawValues())
		}
		rows.Close()
		if rows.Err() != nil {
			t.Error(rows.Err())
		}
	}
	if scope.Seen() == "" {
		t.Error("the reads have left no position")
	}
	if _, err := db.ReadOnly().Exec(ctx, "create table t (n int)", pgx.QueryExecModeExec); !errors.Is(err, pool.ErrReadOnlyView) {
		t.Error(err)
	}
	if _, err := db.ReadOnly().Exec(ctx, "with x as (insert into t values (1) returning n) select n from x", pgx.QueryExecModeExec); err == nil {
		t.Error("written through a view")
	}
	if st := db.Stats(); st.ReadsReplica < 3 {
		t.Errorf("%+v", st)
	}
}

// A view refuses whatever writes, on a replica and on the primary, in statements, batches and transactions.
func TestViewsRefuseWrites(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	all := open(t, pg, name, pool.Options{MaxConns: 2})
	alone := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 2})
	exec(t, all, "create table t (n int)")
	exec(t, all, "create sequence s")
	exec(t, all, "create function f() returns int language sql volatile as 'insert into t values (1) returning n'")
	exec(t, all, "create procedure p() language plpgsql as $$begin commit; insert into t values (1); end$$")
	simple, err := pgxpool.ParseConfig(pg.Primary.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	simple.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	onReplicas(t, all, 2)
	simply, err := pool.NewWithConfig(t.Context(), simple, pool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer simply.Close()
	for who, db := range map[string]*pool.Pool{"replicas": all, "primary": alone, "primary, simple protocol": simply} {
		for _, sql := range []string{
			"insert into t values (1)",
			"with x as (insert into t values (1) returning n) select n from x",
			"select f()",
			"select nextval('s')",
			"select * from t for update",
			"explain analyze insert into t values (1)",
			"select 1; insert into t values (1)",
			"select 1; commit; insert into t values (1)",
			"commit",
			"commit; insert into t values (1)",
			"call p()",
			"do $$begin insert into t values (1); end$$",
			"set transaction read write",
			"select set_config('transaction_read_only', 'off', true), f()",
			"select * into u from t",
			"create table u (n int)",
			"select pg_notify('c', 'x')",
			`select "pg_notify"('c', 'x')`,
			`select U&"pg\005Fnotify"('c', 'x')`,
			"select pg_catalog . pg_notify ('c', 'x')",
			"select pg_advisory_lock(1)",
			"select pg_try_advisory_xact_lock(1)",
			"select lo_create(0)",
			"listen c",
			"copy t from stdin",
			"lock table t",
			"truncate t",
		} {
			view := db.ReadOnly()
			refused := func(how string, err error) {
				t.Helper()
				if err == nil {
					t.Errorf("%s, %s: %s was not refused", who, how, sql)
				} else if !errors.Is(err, pool.ErrReadOnlyView) && !strings.Contains(err.Error(), "must be set before any query") &&
					!strings.Contains(err.Error(), "25001") {
					t.Errorf("%s, %s: %s: %v", who, how, sql, err)
				}
			}
			_, err := view.Exec(t.Context(), sql)
			refused("Exec", err)
			rows, err := view.Query(t.Context(), sql)
			if err == nil {
				for rows.Next() {
				}
				err = rows.Err()
			}
			refused("Query", err)
			b := &pgx.Batch{}
			b.Queue("select 1")
			b.Queue(sql)
			refused("SendBatch", view.SendBatch(t.Context(), b).Close())
			refused("BeginFunc", pgx.BeginFunc(t.Context(), view, func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), sql)
				return err
			}))
			refused("BeginFunc, Query", pgx.BeginFunc(t.Context(), view, func(tx pgx.Tx) error {
				rows, err := tx.Query(t.Context(), sql)
				if err != nil {
					return err
				}
				for rows.Next() {
				}
				return rows.Err()
			}))
			refused("nested", pgx.BeginFunc(t.Context(), view, func(tx pgx.Tx) error {
				return pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
					_, err := tx.Exec(t.Context(), sql)
					return err
				})
			}))
		}
		if _, err := db.ReadOnly().BeginTx(t.Context(), pgx.TxOptions{AccessMode: pgx.ReadWrite}); !errors.Is(err, pool.ErrReadOnlyView) {
			t.Error(err)
		}
		if _, err := db.ReadOnly().CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromRows([][]any{{1}})); !errors.Is(err, pool.ErrReadOnlyView) {
			t.Error(err)
		}
	}
	var n, seq int
	if err := all.QueryRow(t.Context(), "select (select count(*) from t), (select last_value from s where is_called)").Scan(&n, new(any)); err != nil || n != 0 {
		t.Errorf("%d rows were written through views (%v), sequence %d", n, err, seq)
	}
	// The connections are as they were: plain writes go on.
	for _, db := range []*pool.Pool{all, alone} {
		for range 10 {
			exec(t, db, "insert into t values (2)")
		}
	}
}

// Inside a view's transaction, cursors, savepoints and local settings work; row-level security needs the latter.
func TestViewTransaction(t *testing.T) {
	pg := shared(t)
	db := open(t, pg, database(t, pg), pool.Options{MaxConns: 2})
	exec(t, db, "create table t (n int)")
	onReplicas(t, db, 2)
	ctx, scope := causal.Begin(t.Context())
	if _, err := db.Exec(ctx, "insert into t values (5)"); err != nil {
		t.Fatal(err)
	}
	if _, err := causal.Token(ctx); err != nil {
		t.Fatal(err)
	}
	for _, iso := range []pgx.TxIsoLevel{"", pgx.RepeatableRead} {
		seen := scope.Seen()
		err := pgx.BeginTxFunc(ctx, db.ReadOnly(), pgx.TxOptions{IsoLevel: iso}, func(tx pgx.Tx) error {
			for _, sql := range []string{"set local app.tenant = '7'", "declare c cursor for select n from t", "savepoint x",
				"rollback to savepoint x", "release savepoint x"} {
				if _, err := tx.Exec(ctx, sql); err != nil {
					return fmt.Errorf("%s: %w", sql, err)
				}
			}
			var n int
			var tenant string
			if err := tx.QueryRow(ctx, "fetch c").Scan(&n); err != nil {
				return err
			}
			if err := tx.QueryRow(ctx, "select current_setting('app.tenant')").Scan(&tenant); err != nil {
				return err
			}
			if n != 5 || tenant != "7" {
				return fmt.Errorf("%d, %q", n, tenant)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%q: %v", iso, err)
		}
		if scope.Seen() == "" || scope.Seen() < seen {
			t.Errorf("%q: seen %q, then %q", iso, seen, scope.Seen())
		}
	}
	if st := db.Stats(); st.ReadsReplica == 0 {
		t.Errorf("no transaction ran on a replica: %+v", st)
	}
}

// A role whose transactions have one snapshot each, so that a position read inside proves nothing: see TestGuard for why.
func TestRepeatableReadByDefault(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	writer := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 2})
	exec(t, writer, "create table kv (n bigint)")
	exec(t, writer, "insert into kv values (0)")
	url := pg.Replicas[0].URL(name)
	separator := "?"
	if strings.Contains(url, "?") {
		separator = "&"
	}
	db := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 2, Replicas: []string{url + separator + "default_transaction_isolation=repeatable%20read"}})
	onReplicas(t, db, 1)
	for i := range int64(300) {
		ctx, _ := causal.Begin(t.Context())
		if _, err := writer.Exec(ctx, "update kv set n = $1", i+1); err != nil {
			t.Fatal(err)
		}
		if _, err := causal.Token(ctx); err != nil {
			t.Fatal(err)
		}
		var n int64
		if err := db.ReadOnly().QueryRow(ctx, "select n from kv").Scan(&n); err != nil || n != i+1 {
			t.Fatalf("round %d: %d, %v", i, n, err)
		}
	}
}

// Waiting for a connection is bounded apart from the context, counted, and over with the error that says so; what is not
// refused is served.
func TestSaturation(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 2, AcquireTimeout: 200 * time.Millisecond})
	var held []*pgxpool.Conn
	for range 2 {
		c, err := db.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	for _, call := range []func() error{
		func() error { _, err := db.Exec(t.Context(), "select 1"); return err },
		func() error { return db.QueryRow(t.Context(), "select 1").Scan(nil) },
		func() error { return db.ReadOnly().QueryRow(t.Context(), "select 1").Scan(nil) },
		func() error { return db.SendBatch(t.Context(), &pgx.Batch{}).Close() },
		func() error { _, err := db.Begin(t.Context()); return err },
	} {
		if err := call(); !errors.Is(err, pool.ErrSaturated) || !pool.SafeToRetry(err) {
			t.Errorf("with every connection in use: %v", err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := db.Exec(short, "select 1"); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, pool.ErrSaturated) {
		t.Errorf("when the context ends first: %v", err)
	}
	if st := db.Stats(); st.Saturated != 5 || st.Nodes[0].InUse != 2 {
		t.Errorf("%+v", st)
	}
	if err := db.Ping(t.Context()); err != nil {
		t.Errorf("a saturated pool is not ready: %v", err)
	}
	for _, c := range held {
		c.Release()
	}
	if st := db.Stats(); st.Nodes[0].InUse != 0 {
		t.Errorf("%d in use after all were released", st.Nodes[0].InUse)
	}

	many := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 4, AcquireTimeout: backstop})
	var wg sync.WaitGroup
	for range 500 {
		wg.Go(func() {
			var n int
			if err := many.QueryRow(t.Context(), "select 1").Scan(&n); err != nil || n != 1 {
				t.Error(n, err)
			}
		})
	}
	wg.Wait()
}

// After Close every method says so, and Close has waited for what was in use.
func TestClose(t *testing.T) {
	pg := shared(t)
	db := open(t, pg, database(t, pg), pool.Options{MaxConns: 2})
	rows, err := db.Query(t.Context(), "select generate_series(1, 100000)")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	closed := make(chan struct{})
	for range 3 {
		wg.Go(func() { db.Close() })
	}
	go func() { wg.Wait(); close(closed) }()
	n := 0
	for rows.Next() {
		if n++; n == 1 {
			eventually(t, "closing", func() error {
				if _, err := db.Exec(t.Context(), "select 1"); !errors.Is(err, pool.ErrClosed) {
					return fmt.Errorf("Exec: %w", err)
				}
				return nil
			})
			select {
			case <-closed:
				t.Error("Close did not wait for the rows")
			default:
			}
		}
	}
	if rows.Err() != nil || n != 100000 {
		t.Errorf("the rows in flight: %d, %v", n, rows.Err())
	}
	<-closed
	ctx, _ := causal.Begin(t.Context())
	for name, err := range map[string]error{
		"Exec":      func() error { _, err := db.Exec(ctx, "select 1"); return err }(),
		"Query":     func() error { rows, err := db.Query(ctx, "select 1"); rows.Close(); return err }(),
		"QueryRow":  db.QueryRow(ctx, "select 1").Scan(),
		"SendBatch": db.SendBatch(ctx, &pgx.Batch{}).Close(),
		"CopyFrom":  func() error { _, err := db.CopyFrom(ctx, nil, nil, nil); return err }(),
		"Begin":     func() error { _, err := db.Begin(ctx); return err }(),
		"RunTx":     db.RunTx(ctx, func(context.Context, pgx.Tx) error { return nil }, pool.TxOptions{}),
		"Acquire":   func() error { _, err := db.Acquire(ctx); return err }(),
		"Ping":      db.Ping(ctx),
		"view":      db.ReadOnly().QueryRow(ctx, "select 1").Scan(),
		"view Tx":   func() error { _, err := db.ReadOnly().Begin(ctx); return err }(),
	} {
		if !errors.Is(err, pool.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	db.Reset()
	db.Stats()
}

// A view's transaction stays read-only whatever is set in it, and makes no large objects.
func TestViewTransactionCannotWrite(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	config, err := pgxpool.ParseConfig(pg.Primary.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol} {
		config.ConnConfig.DefaultQueryExecMode = mode
		db, err := pool.NewWithConfig(t.Context(), config, pool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		viewTransactionCannotWrite(t, db)
	}
}

func viewTransactionCannotWrite(t *testing.T, db *pool.Pool) {
	ctx := t.Context()
	exec(t, db, "create table if not exists t (n int)")
	insert := func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "with x as (insert into t values (1) returning n) select n from x").Scan(new(int))
	}
	for _, iso := range []pgx.TxIsoLevel{"", pgx.RepeatableRead, pgx.Serializable} {
		for _, sql := range []string{
			"set local transaction_read_only = off",
			`set local "transaction_read_only" = off`,
			`set local "Transaction_Read_Only" = off`,
			"set local transaction read write",
			"set transaction read write",
			"set session characteristics as transaction read write",
			"set transaction_read_only = off",
			"select set_config('transaction_read_only', 'off', true)",
			"reset transaction_read_only",
			"reset all",
			"savepoint a; set local transaction read write",
			"commit; begin read write",
		} {
			tx, err := db.ReadOnly().BeginTx(ctx, pgx.TxOptions{IsoLevel: iso})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(ctx, sql); !errors.Is(err, pool.ErrReadOnlyView) {
				t.Errorf("%s: %v", sql, err)
			}
			if _, err := tx.Conn().Exec(ctx, sql); !errors.Is(err, pool.ErrReadOnlyView) {
				t.Errorf("%s, past the transaction: %v", sql, err)
			}
			if err := insert(tx); !errors.Is(err, pool.ErrReadOnlyView) {
				t.Errorf("after %s: %v", sql, err)
			}
			if err := tx.Rollback(ctx); err != nil {
				t.Error(err)
			}
		}
		// The server refuses too: this goes past every check of the text.
		tx, err := db.ReadOnly().BeginTx(ctx, pgx.TxOptions{IsoLevel: iso, DeferrableMode: pgx.NotDeferrable})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Conn().PgConn().Exec(ctx, "set local transaction_read_only = off").ReadAll(); err == nil {
			t.Errorf("%q: the server lets the transaction write", iso)
		}
		if err := tx.Rollback(ctx); err != nil {
			t.Error(err)
		}
	}
	err := pgx.BeginFunc(ctx, db.ReadOnly(), func(tx pgx.Tx) error {
		return pgx.BeginFunc(ctx, tx, func(nested pgx.Tx) error {
			for _, tx := range []pgx.Tx{tx, nested} {
				large := tx.LargeObjects()
				if _, err := large.Create(ctx, 0); !errors.Is(err, pool.ErrReadOnlyView) {
					t.Errorf("a large object was not refused: %v", err)
				}
				if _, err := large.Open(ctx, 1, pgx.LargeObjectModeWrite); !errors.Is(err, pool.ErrReadOnlyView) {
					t.Errorf("a large object was not refused: %v", err)
				}
				if err := large.Unlink(ctx, 1); !errors.Is(err, pool.ErrReadOnlyView) {
					t.Errorf("a large object was not refused: %v", err)
				}
			}
			var n int
			return nested.QueryRow(ctx, "select count(*) from t").Scan(&n)
		})
	})
	if err != nil {
		t.Errorf("the transaction did not survive what was refused: %v", err)
	}
	var rows, objects int
	if err := db.QueryRow(ctx, "select (select count(*) from t), (select count(*) from pg_largeobject_metadata)").Scan(&rows, &objects); err != nil ||
		rows != 0 || objects != 0 {
		t.Errorf("%d rows and %d large objects were written in views' transactions (%v)", rows, objects, err)
	}
	exec(t, db, "insert into t values (2)") // the connections are as they were
	exec(t, db, "delete from t")
}
