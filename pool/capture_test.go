package pool_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

// The token of a write lies at or past the end of its commit record, whatever the kind of write and with synchronous commit
// on and off. The log itself says where that is (pg_walinspect). The obvious way to get a token, the position in the same
// batch as the write, is the control: it is always too low.
func TestTokensAreAtOrPastTheCommit(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	setup := open(t, pg, name, pool.Options{})
	exec(t, setup, "create table w (id bigserial primary key, kind text)")
	exec(t, setup, "create extension pg_walinspect")
	const each = 250
	one := func(row pgx.Row) (id int64, err error) { err = row.Scan(&id); return id, err }
	last := func(ctx context.Context, db *pool.Pool) (int64, error) {
		return one(db.ReadOnly().QueryRow(ctx, "select max(id) from w"))
	}
	const returning = "insert into w (kind) values ($1) returning id"
	kinds := []struct {
		name  string
		write func(ctx context.Context, db *pool.Pool) (id int64, err error)
	}{
		{"Exec", func(ctx context.Context, db *pool.Pool) (int64, error) {
			if _, err := db.Exec(ctx, "insert into w (kind) values ($1)", "a"); err != nil {
				return 0, err
			}
			return last(ctx, db)
		}},
		{"Exec without arguments", func(ctx context.Context, db *pool.Pool) (int64, error) {
			if _, err := db.Exec(ctx, "insert into w (kind) values ('b')"); err != nil {
				return 0, err
			}
			return last(ctx, db)
		}},
		{"QueryRow", func(ctx context.Context, db *pool.Pool) (int64, error) { return one(db.QueryRow(ctx, returning, "c")) }},
		{"Query", func(ctx context.Context, db *pool.Pool) (int64, error) {
			rows, _ := db.Query(ctx, returning, "d")
			return pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
		}},
		{"Query that hides its write from the lexer", func(ctx context.Context, db *pool.Pool) (int64, error) {
			return one(db.QueryRow(ctx, "select id from hidden"))
		}},
		{"SendBatch", func(ctx context.Context, db *pool.Pool) (id int64, err error) {
			b := &pgx.Batch{}
			b.Queue("select 1")
			b.Queue(returning, "e").QueryRow(func(row pgx.Row) error { return row.Scan(&id) })
			return id, db.SendBatch(ctx, b).Close()
		}},
		{"CopyFrom", func(ctx context.Context, db *pool.Pool) (int64, error) {
			if _, err := db.CopyFrom(ctx, pgx.Identifier{"w"}, []string{"kind"}, pgx.CopyFromRows([][]any{{"f"}})); err != nil {
				return 0, err
			}
			return last(ctx, db)
		}},
		{"Begin and Commit", func(ctx context.Context, db *pool.Pool) (id int64, err error) {
			return id, pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { id, err = one(tx.QueryRow(ctx, returning, "g")); return err })
		}},
		{"RunTx", func(ctx context.Context, db *pool.Pool) (id int64, err error) {
			return id, db.RunTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
				id, err = one(tx.QueryRow(ctx, returning, "h"))
				return err
			}, pool.TxOptions{IsoLevel: pgx.Serializable})
		}},
		{"AcquireFunc", func(ctx context.Context, db *pool.Pool) (id int64, err error) {
			return id, db.AcquireFunc(ctx, func(c *pgxpool.Conn) error { id, err = one(c.QueryRow(ctx, returning, "i")); return err })
		}},
	}
	exec(t, setup, `create function hidden() returns bigint language sql volatile as
		$$insert into w (kind) values ('hidden') returning id$$`)
	exec(t, setup, "create view hidden as select hidden() as id")

	var start string
	if err := setup.QueryRow(t.Context(), "select pg_current_wal_insert_lsn()::text").Scan(&start); err != nil {
		t.Fatal(err)
	}
	type token struct {
		kind  string
		value uint64
	}
	tokens := make(map[int64]token)
	naive := make(map[int64]uint64)
	for _, commit := range []string{"on", "off"} {
		url := pg.Primary.URL(name)
		separator := "?"
		if strings.Contains(url, "?") {
			separator = "&"
		}
		db := openURL(t, url+separator+"synchronous_commit="+commit, pool.Options{MaxConns: 2})
		for _, k := range kinds {
			for range each {
				ctx, scope := causal.Begin(t.Context())
				id, err := k.write(ctx, db)
				if err != nil {
					t.Fatalf("%s: %v", k.name, err)
				}
				text := scope.Written(ctx)
				_, at, _ := strings.Cut(text, ":")
				value, err := strconv.ParseUint(at, 16, 64)
				if err != nil {
					t.Fatalf("%s: token %q", k.name, text)
				}
				tokens[id] = token{k.name + ", synchronous commit " + commit, value}
			}
		}
		for range each {
			var id int64
			var value string
			b := &pgx.Batch{}
			b.Queue(returning, "naive").QueryRow(func(row pgx.Row) error { return row.Scan(&id) })
			b.Queue("select lpad(to_hex((pg_current_wal_insert_lsn() - '0/0')::bigint), 16, '0')").QueryRow(func(row pgx.Row) error { return row.Scan(&value) })
			if err := db.SendBatch(t.Context(), b).Close(); err != nil {
				t.Fatal(err)
			}
			naive[id], _ = strconv.ParseUint(value, 16, 64)
		}
	}
	exec(t, setup, "insert into w (kind) values ('flushes the log up to here')")

	rows, _ := setup.Query(t.Context(), `select w.id, lpad(to_hex((c.end_lsn - '0/0')::bigint), 16, '0') from w join
		(select xid, end_lsn from pg_get_wal_records_info($1::text::pg_lsn, pg_current_wal_flush_lsn())
		 where resource_manager = 'Transaction' and record_type like 'COMMIT%') c on c.xid = w.xmin`, start)
	checked, low, lowNaive := 0, 0, 0
	var id int64
	var text string
	_, err := pgx.ForEachRow(rows, []any{&id, &text}, func() error {
		committed, err := strconv.ParseUint(text, 16, 64)
		if tok, ok := tokens[id]; ok {
			checked++
			if tok.value < committed {
				low++
				t.Logf("%s: token %X, commit %X", tok.kind, tok.value, committed)
			}
		}
		if v, ok := naive[id]; ok && v < committed {
			lowNaive++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d tokens checked, %d too low; of %d naive ones %d", checked, low, len(naive), lowNaive)
	if low > 0 || checked != 2*each*len(kinds) {
		t.Errorf("%d of %d tokens are too low (%d written)", low, checked, 2*each*len(kinds))
	}
	if lowNaive != 2*each {
		t.Errorf("%d of %d naive tokens are too low: the check does not check", lowNaive, 2*each)
	}
}

// A position that no replica receives by itself is made reachable: here it lies in the log of a transaction that is open.
func TestNudge(t *testing.T) {
	// The WAL writer would flush it too, sooner or later: here later.
	pg := shared(t)
	name := database(t, pg)
	db := open(t, pg, name, pool.Options{MaxConns: 4})
	exec(t, db, "create table filler (v text)")
	alter(t, db, "wal_writer_delay", "'10s'")
	onReplicas(t, db, 2)
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	var token string
	for token == "" { // until the open transaction's log reaches past what is flushed
		var tag, at string
		if _, err := tx.Exec(t.Context(), "insert into filler select repeat('x', 100) from generate_series(1, 10)"); err != nil {
			t.Fatal(err)
		}
		if err := tx.QueryRow(t.Context(), `select 'pg-' || system_identifier, case when pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()
			then lpad(to_hex((pg_current_wal_insert_lsn() - '0/0')::bigint), 16, '0') else '' end from pg_control_system()`).Scan(&tag, &at); err != nil {
			t.Fatal(err)
		}
		if at != "" {
			token = fmt.Sprintf("%s=%08X:%s", tag, 1, strings.ToUpper(at))
		}
	}
	ctx, err := causal.AtLeast(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	var one int
	view := db.ReadOnly().With(pool.ReadOptions{RequireReplica: true, WaitUpTo: backstop})
	if err := view.QueryRow(ctx, "select 1").Scan(&one); err != nil {
		t.Fatal(err)
	}
	if st := db.Stats(); st.Nudges == 0 {
		t.Errorf("the position was reached without a nudge: %+v", st)
	}
}
