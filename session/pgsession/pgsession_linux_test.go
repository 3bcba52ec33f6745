package pgsession

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/session"
	"github.com/fairlead/fairlead/session/sessiontest"
)

var postgres = testenv.Share(func(ctx context.Context) (*testenv.Postgres, error) {
	return testenv.StartPostgres(ctx, testenv.PostgresOptions{})
})

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run, postgres)) }

func open(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pg, err := postgres.Get()
	if err != nil {
		t.Fatal(err)
	}
	name, err := pg.CreateDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	db, err := pgxpool.New(t.Context(), pg.Primary.URL(name)+poolSize(pg.Primary.URL(name)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	for range 2 {
		if _, err := db.Exec(t.Context(), Schema); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func poolSize(url string) string {
	if strings.Contains(url, "?") {
		return "&pool_max_conns=8"
	}
	return "?pool_max_conns=8"
}

func TestConformance(t *testing.T) {
	s := New(open(t))
	sessiontest.Run(t, func(*testing.T) session.Store { return s })
}

func TestNilDatabase(t *testing.T) {
	if _, err := session.New[int](New(nil), session.Options{}); err == nil || !strings.Contains(err.Error(), "pgsession: db is nil") {
		t.Error(err)
	}
}

// TestExpiredRowsGo: creations delete what has expired, twice as fast as they add.
func TestExpiredRowsGo(t *testing.T) {
	db := open(t)
	s := New(db)
	for i := range 20 {
		left := time.Minute
		if i < 10 {
			left = time.Microsecond
		}
		r := session.Record{Tag: "t", ID: string(rune('a' + i)), Left: left}
		if _, created, err := s.Create(t.Context(), r); err != nil || !created {
			t.Fatal(created, err)
		}
	}
	n := 0
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM fairlead_sessions`).Scan(&n); err != nil || n != 10 {
		t.Errorf("%d rows, want the 10 that live, %v", n, err)
	}
}

func TestConcurrentUpdatesAreNotLost(t *testing.T) {
	db := open(t)
	type counter struct{ N int }
	var managers []*session.Manager[counter]
	for range 2 {
		m, err := session.New[counter](New(db), session.Options{StoreTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		managers = append(managers, m)
	}
	b := &browser{}
	add := func(c *counter) error { c.N++; return nil }
	inRequest(t, managers[0], b, func(ctx context.Context, s *session.Session[counter]) error { _, err := s.Update(ctx, add); return err })
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			inRequest(t, managers[i%2], b, func(ctx context.Context, s *session.Session[counter]) error { _, err := s.Update(ctx, add); return err })
		})
	}
	wg.Wait()
	inRequest(t, managers[0], b, func(ctx context.Context, s *session.Session[counter]) error {
		c, err := s.Get(ctx)
		if c.N != 101 {
			t.Errorf("%d, want 101", c.N)
		}
		return err
	})
	// Login, rotation and revocation, too.
	inRequest(t, managers[0], b, func(ctx context.Context, s *session.Session[counter]) error {
		l, err := s.BeginLogin(ctx, "ann")
		if err != nil {
			return err
		}
		if err := l.Commit(ctx); err != nil {
			return err
		}
		return s.Rotate(ctx)
	})
	inRequest(t, managers[1], b, func(ctx context.Context, s *session.Session[counter]) error {
		if c, err := s.Get(ctx); err != nil || c.N != 101 {
			t.Errorf("%+v, %v", c, err)
		}
		return managers[1].RevokeUser(ctx, "ann")
	})
	inRequest(t, managers[0], b, func(ctx context.Context, s *session.Session[counter]) error {
		c, err := s.Get(ctx)
		if c.N != 0 {
			t.Errorf("%d after the revocation", c.N)
		}
		return err
	})
}
