package sqllex

import (
	"testing"
)

// What must be proven to be a read, so that ordinary queries do not count as writes.
var reads = []string{
	"select 1",
	"SELECT 1;",
	"  select 1 ; ; -- that is all",
	"/* a /* nested */ comment */ select 1",
	"-- a comment\nselect 1",
	"select * from products where id = $1",
	"select id, name, price_cents from products where id = any($1) order by id limit 10 offset 5",
	"select count(*) from t",
	"select count(distinct a), sum(b), max(c) filter (where d) from t group by e having count(*) > 1",
	"select a.*, b.n from a join b on (a.id = b.id) left join lateral (select 1) x on true",
	"select coalesce(a, 'x'), nullif(b, 0), greatest(c, d) from t",
	"select case when a then 'it''s' else 'no' end from t",
	"select 'insert into t', \"delete\", $$update t$$, $a$drop $$ table$a$, e'\\'; delete from t' from t",
	"select \"for\" from t",
	"select x::numeric(10,2), y::varchar(20), cast(z as timestamp(3)) from t",
	"select now() - interval '1 day'",
	"select interval(3) '1 day'",
	"select extract(epoch from now())",
	"select position('a' in b) from t",
	"select lower(pg_catalog.upper(name)), pg_catalog.count(*) from t group by 1",
	"select row_number() over (partition by a order by b rows between 1 preceding and current row) from t",
	"select array[1,2], array(select 1), row(1,2), (1,2)",
	"select * from unnest($1::int[]) with ordinality",
	"select exists (select 1 from t), not (true and (false))",
	"select a from t where b in (1,2) and c between (1) and (2) and d like 'x' is not null",
	"select * from t where (a, b) = ($1, $2)",
	"select * from ((select 1) union all (select 2)) x",
	"(select 1) union (select 2)",
	"((select 1))",
	"values (1, 'a'), (2, 'b')",
	"table products",
	"show transaction_isolation",
	"with x as (select 1), y as materialized (select 2) select * from x, y",
	"with recursive t as (select 1 as n union all select n + 1 from t where n < 10) select * from t",
	"select jsonb_agg(jsonb_build_object('a', a)) from t",
	"select data->>'a', data #>> '{a,b}', data ? 'c' from t",
	"select to_tsvector('english', body) @@ plainto_tsquery($1) from t",
	"select generate_series(1, 10)",
	"select 1.5e-3, 0x1f, 1_000",
	"select b'101', x'1F', n'text', U&'dat' from t where false",
	"select * from t limit (select 1) offset (2)",
	"select a as \"insert into\" from t",
	"select été from tàble",
	"select a from t where b = 'x' -- ; delete from t",
	"select a/*; delete from t */from t",
	"select * from t, lateral (select 2) y where t.a <@ array[1] and t.b @> '{}'",
}

// What no rule may prove.
var unproven = []string{
	"",
	";",
	"-- nothing",
	"/* nothing */",
	"insert into t values (1)",
	"INSERT INTO t VALUES (1) RETURNING id",
	"update t set a = 1",
	"delete from t",
	"merge into t using s on true when matched then delete",
	"truncate t",
	"/* select */ delete from t",
	"--select\ndelete from t",
	"select 1; delete from t",
	"select 1;; delete from t",
	"select ';'; delete from t",
	"select 1 /* ; */ ; delete from t",
	"select $$;$$; delete from t",
	"select 1;\n-- comment\ndelete from t",
	"select e'\\';' ; delete from t",
	"select 'a\\'; delete from t; --'",
	"select 'a\\' as x",
	"select * from t for update",
	"select * from t FOR NO KEY UPDATE",
	"select * from t for share skip locked",
	"select * into u from t",
	"select a into temp u from t",
	"with x as (insert into t values (1) returning a) select a from x",
	"with x as (delete from t returning *) select * from x",
	"with x as (update t set a = 1 returning *) select * from x",
	"with x as (merge into t using s on true when matched then delete returning 1) select 1",
	"with x as (select 1) insert into t select * from x",
	"with x as (select 1) delete from t using x",
	"select f()",
	"select f ()",
	"select f/**/()",
	"select f--\n()",
	"select \"f\"()",
	"select \"count\"(*)",
	"select s.f()",
	"select s.count(*)",
	"select s . lower('x')",
	"select public.now()",
	"select db.pg_catalog.f()",
	"select pg_catalog.f()",
	"select U&\"\\0066\"()",
	"select nextval('s')",
	"select setval('s', 1)",
	"select * from f()",
	"select * from t where f(a)",
	"select lower(f(a)) from t",
	"select pg_notify('a', 'b')",
	"select pg_advisory_lock(1)",
	"select pg_try_advisory_lock(1)",
	"select lo_create(0)",
	"select lo_unlink(1)",
	"select txid_current()",
	"select pg_current_xact_id()",
	"select set_config('a', 'b', false)",
	"select dblink_exec('delete from t')",
	"select query_to_xml('delete from t', true, true, '')",
	"select s.values(1)",
	"select s.exists(1)",
	"select filter(1)",
	"select over(1)",
	"select by(1)",
	"select materialized(1)",
	"select join(1)",
	"select like(1, 2)",
	"select cube(1)",
	"select partition(1)",
	"select recursive(1)",
	"select random()",
	"select gen_random_uuid()",
	"select clock_timestamp()",
	"select pg_sleep(1)",
	"select currval('s')",
	"explain select 1",
	"explain analyze insert into t values (1)",
	"explain (analyze) delete from t",
	"begin",
	"begin; delete from t; commit",
	"start transaction",
	"commit",
	"end",
	"rollback",
	"abort",
	"savepoint a",
	"release a",
	"prepare x as select 1",
	"prepare transaction 'x'",
	"commit prepared 'x'",
	"execute x",
	"deallocate x",
	"declare c cursor for select 1",
	"declare c cursor with hold for select f()",
	"fetch c",
	"move c",
	"close c",
	"call p()",
	"do $$begin end$$",
	"copy t from stdin",
	"copy (select 1) to stdout",
	"copy (delete from t returning 1) to stdout",
	"create table t (a int)",
	"create table t as select 1",
	"create view v as select 1",
	"create materialized view v as select 1",
	"refresh materialized view v",
	"drop table t",
	"alter table t add a int",
	"grant select on t to x",
	"revoke select on t from x",
	"vacuum",
	"analyze t",
	"cluster t",
	"reindex table t",
	"lock table t",
	"set a = 1",
	"set local a = 1",
	"set transaction read write",
	"reset a",
	"discard all",
	"listen a",
	"unlisten a",
	"notify a",
	"comment on table t is 'x'",
	"security label on table t is 'x'",
	"import foreign schema s from server x into y",
	"load 'x'",
	"checkpoint",
	"reassign owned by a to b",
	"select 'no end",
	"select \"no end",
	"select $$no end",
	"select $a$no end$b$",
	"select 1 /* no end",
	"select 1 /* /* no end */",
	"select e'no end\\'",
	"select 1\x00; delete from t",
	"stmt_name",
	"'select'",
	"1",
	"$1",
	"\"select\" 1",
	"select 1 as t(a)",
	"\\copy t",
	"selec t",
	"sélect 1",
	"[select 1]",
	"?",
	"SELECT 1 INTO\tu",
	"select a from t\u00a0for update",
	"select (select 1 from t for update)",
	"select exists (select 1 from t for share)",
	"table t for update",
	"values (f())",
	"values (nextval('s'))",
	"table f()",
	"with x as (select f()) select 1",
	"with x as (table t for update) select 1",
	"select a.f() from a",
	"select (f)()",
	"select \"a\".\"f\"()",
	"select case when true then f() end",
	"select array[f()]",
	"select $1::text || f()",
	"select x'1'f()",
	"select 'a'f()",
	"select 1f()",
	"select $$a$$f()",
	"select a$b$(); delete from t --$b$",
}

func TestClassify(t *testing.T) {
	for _, sql := range reads {
		if c := Classify(sql); !c.Read || c.Refused != "" {
			t.Errorf("%q: %+v, want a read", sql, c)
		}
	}
	for _, sql := range unproven {
		if c := Classify(sql); c.Read {
			t.Errorf("%q: is no proven read", sql)
		}
	}
	if n := len(reads) + len(unproven); n < 200 {
		t.Errorf("%d statements", n)
	}
}

func TestRefused(t *testing.T) {
	for sql, want := range map[string]struct{ view, tx bool }{
		"":                            {false, false},
		"select 1":                    {false, false},
		"select 'a\\' as x":           {false, false},
		"select f()":                  {false, false}, // the server decides
		"explain analyze select 1":    {false, false},
		"select * from t for update":  {false, false},
		"select a like '\\_%' from t": {false, false},
		"with x as (insert into t values (1) returning 1) select 1": {false, false},
		"select 1; select 2":            {true, true},
		"select 1;":                     {false, false},
		"select 1; commit":              {true, true},
		"commit":                        {true, true},
		"rollback":                      {true, true},
		"rollback to savepoint a":       {true, false},
		"savepoint a":                   {true, false},
		"release a":                     {true, false},
		"declare c cursor for select 1": {true, false},
		"fetch c":                       {true, false},
		"close c":                       {true, false},
		"set local a = 1":               {true, false},
		"set a = 1":                     {true, true},
		"set transaction read write":    {true, true},
		"set session characteristics as transaction read write": {true, true},
		"begin":                                      {true, true},
		"call p()":                                   {true, true},
		"do $$begin end$$":                           {true, true},
		"insert into t values (1)":                   {true, true},
		"select pg_notify('a', 'b')":                 {true, true},
		"select PG_NOTIFY ('a', 'b')":                {true, true},
		"select \"pg_notify\"('a','b')":              {true, true},
		"select U&\"pg\\005Fnotify\"()":              {true, true},
		"select s.pg_advisory_lock(1)":               {true, true},
		"select pg_try_advisory_xact_lock_shared(1)": {true, true},
		"select lo_get(1)":                           {false, false},
		"select lo_put(1, 0, '')":                    {true, true},
		"select lowrite(1, '')":                      {true, true},
		"select 'no end":                             {true, true},
		"stmt_name":                                  {true, true},
	} {
		if got := Classify(sql).Refused; (got != "") != want.view {
			t.Errorf("%q on a view: %q", sql, got)
		}
		if got := ClassifyInTx(sql).Refused; (got != "") != want.tx {
			t.Errorf("%q in its transaction: %q", sql, got)
		}
	}
}

// Whatever surrounds a write, and however a proven read goes on, it is never taken for a read.
func FuzzClassify(f *testing.F) {
	for _, sql := range reads {
		f.Add(sql)
	}
	for _, sql := range unproven {
		f.Add(sql)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		c := Classify(sql)
		ClassifyInTx(sql)
		if c.Read && c.Refused != "" {
			t.Fatalf("%q: both a read and refused: %s", sql, c.Refused)
		}
		if !c.Read {
			return
		}
		// A newline ends a line comment; everything else has to be closed in a proven read.
		for _, more := range []string{"\n; delete from t", "\n;select f()", "\nfor update", "\ninto u"} {
			if Classify(sql + more).Read {
				t.Errorf("%q is taken for a read", sql+more)
			}
		}
		if Classify("delete from t where exists (" + sql + "\n)").Read {
			t.Errorf("a delete around %q is taken for a read", sql)
		}
		if !Classify("/* x */ " + sql + "\n-- y").Read {
			t.Errorf("%q is no read any more with comments around", sql)
		}
	})
}
