package testenv_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/internal/testenv"
)

func TestPgBouncer(t *testing.T) {
	pg, err := testenv.StartPostgres(t.Context(), testenv.PostgresOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close()
	b, err := testenv.StartPgBouncer(t.Context(), pg.Primary.Addr(), testenv.PgBouncerOptions{Settings: map[string]string{"default_pool_size": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ask := func() {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), b.URL("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		var n int
		if err := conn.QueryRow(t.Context(), "select 7", pgx.QueryExecModeExec).Scan(&n); err != nil || n != 7 {
			t.Errorf("%d, %v", n, err)
		}
	}
	ask()
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ask()
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := b.Start(t.Context()); err == nil {
		t.Error("started after Close")
	}
}
