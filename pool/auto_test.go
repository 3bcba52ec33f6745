package pool_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

// autoSchema has a way to write past a lexer for every kind of thing that can hide one.
const autoSchema = `
	create table t (n int, note text);
	insert into t values (1, 'a'), (2, 'b');
	create sequence s;
	create function price(n int) returns int language sql stable as 'select n * 2';
	create function add(n int) returns int language sql volatile as 'insert into t values (n, ''f'') returning n';
	create function touch(t) returns int language sql volatile as 'insert into t values (3, ''attribute'') returning n';
	create function liar(n int) returns int language plpgsql stable as $$ begin return add(n); end $$;
	create function second_row(n int) returns int language plpgsql stable as
		$$ begin if n > 1 then return add(n); end if; return n; end $$;
	create function upper(n int) returns int language sql volatile as 'select add(n)';
	create aggregate tally(int) (sfunc = int4pl, stype = int, initcond = '0');
	create procedure proc() language sql as 'insert into t values (4, ''p'')';
	create view plain_view as select n, price(n) as price from t;
	create view noisy_view as select add(100) as n;
	create view over_view as select n from noisy_view;
	create view locking_view as select pg_try_advisory_lock(7) as ok;
	create function add_op(int, int) returns int language sql volatile as 'select add($1 + $2)';
	create operator @#@ (leftarg = int, rightarg = int, function = add_op);
	create schema other;
	create function other.price_of(n int) returns int language sql immutable as 'select n';
	create function "Quoted"(n int) returns int language sql immutable as 'select n'`

func autoPool(t testing.TB, replicas int) (*pool.Pool, *testenv.Postgres, string) {
	t.Helper()
	pg := shared(t)
	name := database(t, pg)
	db := open(t, pg, name, pool.Options{MaxConns: 3})
	for _, sql := range strings.Split(autoSchema, ";\n") {
		exec(t, db, sql)
	}
	onReplicas(t, db, replicas)
	return db, pg, name
}

// ran returns how many statements like a pattern the primary and the replicas have completed.
func ran(t testing.TB, pg *testenv.Postgres, name, like string) (primary, replicas int64) {
	t.Helper()
	count := func(n *testenv.Node) int64 {
		c, err := n.QueryCount(t.Context(), name, like)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, r := range pg.Replicas {
		replicas += count(r)
	}
	return count(pg.Primary), replicas
}

// Each statement runs where it belongs, as the servers counted them, and has the effect that it has on the primary: once.
func TestAutoRunsWritesOnThePrimaryOnce(t *testing.T) {
	db, pg, name := autoPool(t, 2)
	rows := func() (n int) {
		if err := db.QueryRow(t.Context(), "select count(*) from t").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i, c := range []struct {
		sql   string
		where string // replica or primary
		adds  int    // rows to t
	}{
		{"select n from t order by n limit 1", "replica", 0},
		{"select price(n) from t order by n limit 1", "replica", 0},
		{"select other.price_of(1)", "replica", 0},
		{`select "Quoted"(1)`, "replica", 0},
		{"select length(substring('abc' from 1))", "replica", 0},
		{"select n from plain_view order by 1 limit 1", "replica", 0},
		{"with x as (select 1 as n) select n from x", "replica", 0},
		{"values (1)", "replica", 0},

		{"insert into t values (9, 'i') returning n", "primary", 1},
		{"with x as (insert into t values (9, 'c') returning n) select n from x", "primary", 1},
		{"select n from t order by n limit 1 for update", "primary", 0},
		{"select add(9)", "primary", 1},
		{"select upper(9)", "primary", 1},
		{"select x.touch from t x where n = 1 and note = 'a'", "primary", 1},
		{"select nextval('s')::int", "primary", 0},
		{"select n from noisy_view", "primary", 1},
		{"select n from over_view", "primary", 1},
		{"select ok::int from locking_view", "primary", 0},
		{"select pg_try_advisory_lock(8)::int", "primary", 0},
		{"select tally(n)::int from t", "primary", 0},
		{"select unknown_function(1)", "error", 0},
		// Here only the server knows.
		{"select liar(9)", "primary", 1},
		{"select 4 @#@ 5", "primary", 1},
	} {
		for _, how := range []string{"QueryRow", "Query", "Exec", "SendBatch"} {
			tagged := fmt.Sprintf("%s /* %s %d */", c.sql, how, i)
			before := rows()
			if err := pg.Primary.ResetCounts(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			for _, r := range pg.Replicas {
				if err := r.ResetCounts(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
			ctx, _ := causal.Begin(t.Context())
			auto := db.Auto()
			var n int
			var err error
			switch how {
			case "QueryRow":
				err = auto.QueryRow(ctx, tagged).Scan(&n)
			case "Query":
				var all []int
				r, _ := auto.Query(ctx, tagged)
				if all, err = pgx.CollectRows(r, pgx.RowTo[int]); err == nil && len(all) == 0 {
					err = errors.New("no rows")
				}
			case "Exec":
				_, err = auto.Exec(ctx, tagged)
			case "SendBatch":
				b := &pgx.Batch{}
				b.Queue("select 1")
				b.Queue(tagged).QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
				b.Queue("select 2")
				err = auto.SendBatch(ctx, b).Close()
			}
			if failed := err != nil; failed != (c.where == "error") {
				t.Errorf("%s: %s: %v", how, c.sql, err)
				continue
			}
			if got := rows() - before; got != c.adds {
				t.Errorf("%s: %s has added %d rows, want %d", how, c.sql, got, c.adds)
			}
			primary, replicas := ran(t, pg, name, "%/* "+how+" "+fmt.Sprint(i)+" */%")
			if c.where == "replica" && (replicas != 1 || primary != 0) || c.where == "primary" && (replicas != 0 || primary != 1) {
				t.Errorf("%s: %s ran %d times on the primary and %d on replicas, want once on the %s", how, c.sql, primary, replicas, c.where)
			}
		}
	}
}

// Several statements in one string are never a read; only the simple protocol, which Exec without arguments uses, takes them.
func TestAutoSendsSeveralStatementsToThePrimary(t *testing.T) {
	db, _, _ := autoPool(t, 2)
	if _, err := db.Auto().Exec(t.Context(), "select 1; insert into t values (60, 'multi')"); err != nil {
		t.Error(err)
	}
	if err := db.Auto().QueryRow(t.Context(), "select 1; insert into t values (60, 'multi')").Scan(new(int)); err == nil {
		t.Error("no error")
	}
	var n int
	if err := db.QueryRow(t.Context(), "select count(*) from t where n = 60").Scan(&n); err != nil || n != 1 {
		t.Errorf("%d rows, %v", n, err)
	}
}

// Once the server has refused a text as a write, it is not tried on a replica again.
func TestAutoLearns(t *testing.T) {
	db, _, _ := autoPool(t, 2)
	const sql = "select liar(n) from t where n = 1 and note = 'a'"
	for range 5 {
		if _, err := db.Auto().Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	st := db.Stats()
	// One read that was refused; readCatalog's transaction is the other.
	if st.ReadsReplica+st.ReadsPrimary > 2 {
		t.Errorf("%+v", st)
	}
	// A write that shows after rows were delivered cannot be taken back: the caller hears of it, and the next time is right.
	const late = "select second_row(n) from generate_series(1, 2) n"
	read := func() ([]int, error) {
		rows, _ := db.Auto().Query(t.Context(), late)
		return pgx.CollectRows(rows, pgx.RowTo[int])
	}
	if all, err := read(); !errors.Is(err, pool.ErrReadOnlyView) {
		t.Errorf("%v, %v: want ErrReadOnlyView, as rows were delivered before", all, err)
	}
	if all, err := read(); err != nil || len(all) != 2 {
		t.Errorf("%v, %v", all, err)
	}
	var first int // of a single row nothing is delivered before it is known
	if err := db.Auto().QueryRow(t.Context(), late+" where true").Scan(&first); err != nil || first != 1 {
		t.Errorf("%d, %v", first, err)
	}
}

// An argument that rewrites the text is not what was looked at.
func TestAutoDoubtsRewriters(t *testing.T) {
	db, _, _ := autoPool(t, 2)
	var n int
	if err := db.Auto().QueryRow(t.Context(), "select 1", rewriter("insert into t values (77, 'r') returning n")).Scan(&n); err != nil || n != 77 {
		t.Errorf("%d, %v", n, err)
	}
	// Not even one that the server would let pass on a replica.
	if err := db.Auto().QueryRow(t.Context(), "select 2", rewriter("select pg_is_in_recovery()::int")).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d, %v: want the primary", n, err)
	}
	if err := db.Auto().QueryRow(t.Context(), "select price(@n)", pgx.NamedArgs{"n": 4}).Scan(&n); err != nil || n != 8 {
		t.Errorf("%d, %v", n, err)
	}
	if st := db.Stats(); st.ReadsReplica < 2 { // the catalog, and the one with names
		t.Errorf("%+v", st)
	}
}

type rewriter string

func (r rewriter) RewriteQuery(_ context.Context, _ *pgx.Conn, _ string, _ []any) (string, []any, error) {
	return string(r), nil, nil
}

func TestAutoTransactionsAndCopies(t *testing.T) {
	db, _, _ := autoPool(t, 2)
	auto := db.Auto()
	err := pgx.BeginFunc(t.Context(), auto, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "insert into t values (5, 'tx')")
		return err
	})
	if err != nil {
		t.Error(err)
	}
	err = pgx.BeginTxFunc(t.Context(), auto, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var replica bool
		if err := tx.QueryRow(t.Context(), "select pg_is_in_recovery()").Scan(&replica); err != nil || !replica {
			t.Errorf("a read-only transaction is on a replica: %v, %v", replica, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	n, err := auto.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"n", "note"}, pgx.CopyFromRows([][]any{{6, "copy"}, {7, "copy"}}))
	if err != nil || n != 2 {
		t.Errorf("%d, %v", n, err)
	}
	b := &pgx.Batch{}
	b.BeginTx(pgx.TxOptions{})
	b.Queue("insert into t values (8, 'batch')")
	results := auto.SendBatch(t.Context(), b)
	tx := results.Tx()
	if tx == nil {
		t.Fatal("the batch has begun no transaction")
	}
	if err := results.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	if err := auto.SendBatch(t.Context(), &pgx.Batch{}).Close(); err != nil {
		t.Errorf("an empty batch: %v", err)
	}
}

// A function that becomes volatile, or a name that gets a volatile overload, is seen when the catalog is looked at again;
// until then the server's refusal covers it.
func TestAutoSurvivesChangesOfTheCatalog(t *testing.T) {
	db, _, _ := autoPool(t, 2)
	var n int
	if err := db.Auto().QueryRow(t.Context(), "select price(3)").Scan(&n); err != nil || n != 6 {
		t.Fatal(n, err)
	}
	exec(t, db, "create or replace function price(n int) returns int language sql volatile as 'select add(n)'")
	onReplicas(t, db, 2)
	for i := range 3 {
		if err := db.Auto().QueryRow(t.Context(), "select price($1)", 50+i).Scan(&n); err != nil || n != 50+i {
			t.Errorf("%d, %v", n, err)
		}
	}
	if err := db.QueryRow(t.Context(), "select count(*) from t where n between 50 and 52").Scan(&n); err != nil || n != 3 {
		t.Errorf("%d rows, %v", n, err)
	}
}

// A view's results are pgxpool's also when it decides by itself.
func TestAutoResultsArePgxpools(t *testing.T) {
	db, pg, name := autoPool(t, 2)
	plain, err := pgxpool.New(t.Context(), pg.Primary.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for _, sql := range []string{wide, wide + " where false", "select", "select nonsense", "select price(1) as a, 2 as b",
		"select 1 / (n - 2) from t order by n", wide + " limit 2 for share"} {
		want, got := everything(t.Context(), plain, sql), everything(t.Context(), db.Auto(), sql)
		if fmt.Sprint(want) != fmt.Sprint(got) {
			t.Errorf("%s\n got %v\nwant %v", sql, got, want)
		}
	}
	for _, n := range db.Stats().Nodes {
		if n.InUse != 0 {
			t.Errorf("%s has %d connections in use", n.Name, n.InUse)
		}
	}
}
