package compat

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
)

var servers = testenv.Share(func(ctx context.Context) (*testenv.Postgres, error) {
	return testenv.StartPostgres(ctx, testenv.PostgresOptions{Replicas: 1, Template: schema})
})

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run, servers)) }

// database returns the servers and the name of a new database with sqlc's schema.
func database(t testing.TB) (*testenv.Postgres, string) {
	t.Helper()
	pg, err := servers.Get()
	if err != nil {
		t.Fatal(err)
	}
	name, err := pg.CreateDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return pg, name
}

// open returns a pool on the primary and the replica, which is current.
func open(t testing.TB) *pool.Pool {
	t.Helper()
	pg, name := database(t)
	db, err := pool.New(t.Context(), pg.Primary.URL(name), pool.Options{Replicas: []string{pg.Replicas[0].URL(name)}, MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	current(t, db)
	return db
}

// current waits until db's replica has everything of now.
func current(t testing.TB, db *pool.Pool) {
	t.Helper()
	since := time.Now()
	eventually(t, "a current replica", func() error {
		for _, n := range db.Stats().Nodes {
			if n.Role == "replica" && n.State == "up" && n.Lag >= 0 && n.Lag < time.Since(since) {
				return nil
			}
		}
		return fmt.Errorf("%+v", db.Stats().Nodes)
	})
}

// eventually polls until what holds.
func eventually(t testing.TB, what string, holds func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = holds(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}
