//go:build !race

package pool_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/pool"
)

// Reading a row of the primary without a scope costs at most two allocations more than pgxpool alone.
func TestAllocationsOfQueryRow(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := open(t, pg, name, pool.Options{MaxConns: 2})
	plain, err := pgxpool.New(t.Context(), pg.Primary.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	count := func(q querier) float64 {
		return testing.AllocsPerRun(2000, func() {
			var n int
			if err := q.QueryRow(t.Context(), "select 7 where $1 = 7", 7).Scan(&n); err != nil || n != 7 {
				t.Fatal(n, err)
			}
		})
	}
	ours, theirs := count(db), count(plain)
	t.Logf("%.0f allocations, pgxpool alone %.0f", ours, theirs)
	if ours > theirs+2 {
		t.Errorf("%.0f allocations, pgxpool alone %.0f", ours, theirs)
	}
}
