package sqllex

import (
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/internal/testenv"
)

// The allow-list is what a real server declares: no overload of a name in it is volatile.
func TestPureIsWhatPostgreSQLDeclares(t *testing.T) {
	pg, err := testenv.StartPostgres(t.Context(), testenv.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close()
	conn, err := pgx.Connect(t.Context(), pg.Primary.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var names []string
	for name := range pure {
		names = append(names, name)
	}
	slices.Sort(names)
	rows, _ := conn.Query(t.Context(), `select distinct proname::text from pg_proc p
		where proname = any($1) and (provolatile = 'v' or prokind = 'p') order by 1`, names)
	volatile, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(volatile) > 0 {
		t.Errorf("volatile, or procedures: %q", volatile)
	}
	// What an aggregate or window function calls has to be pure as well.
	rows, _ = conn.Query(t.Context(), `select distinct p.proname::text from pg_aggregate a join pg_proc p on p.oid = a.aggfnoid
		join pg_proc f on f.oid in (a.aggtransfn, a.aggfinalfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn)
		where p.proname = any($1) and f.provolatile = 'v'`, names)
	if volatile, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(volatile) > 0 {
		t.Errorf("over volatile functions: %q, %v", volatile, err)
	}
	// And no word before a parenthesis that is taken for SQL's own is a function's name.
	var words []string
	for w := range reserved {
		words = append(words, w)
	}
	rows, _ = conn.Query(t.Context(), `select word from pg_get_keywords() where word = any($1) and catcode in ('U')`, words)
	if free, err := pgx.CollectRows(rows, pgx.RowTo[string]); err != nil || len(free) > 0 {
		t.Errorf("any function may be called %q, %v", free, err)
	}
}
