package pgsession

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/session"
)

// waiting polls until that many statements wait for a lock in this test's database, or enough says so.
func waiting(t *testing.T, db *pgxpool.Pool, want int, enough <-chan struct{}) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		n := 0
		err := db.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		if n >= want {
			return
		}
		select {
		case <-enough:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Fatalf("there never were %d statements that wait", want)
}

// TestARevocationSeesARotation holds a revocation in its middle, at a row that another transaction has locked, and rotates
// another session of the user meanwhile. The successor must not survive.
func TestARevocationSeesARotation(t *testing.T) {
	db := open(t)
	s := New(db)
	ctx := t.Context()
	for _, id := range []string{"a", "b"} {
		if _, created, err := s.Create(ctx, session.Record{Tag: "u", ID: id, User: true, Left: time.Hour}); !created {
			t.Fatal(err)
		}
	}
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, `SELECT FROM fairlead_sessions WHERE tag = 'u' AND id = 'a' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	revoked, rotated := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(revoked)
		if _, err := s.Revoke(ctx, "u", nil); err != nil {
			t.Error(err)
		}
	}()
	waiting(t, db, 1, nil)
	swapped := false
	go func() {
		defer close(rotated)
		_, created, err := s.Create(ctx, session.Record{Tag: "u", ID: "c", User: true, Left: time.Hour})
		if !created || err != nil {
			t.Errorf("Create: %v, %v", created, err)
		}
		b := session.Record{Tag: "u", ID: "b", Version: 1, User: true, Pinned: true, Left: time.Minute}
		if _, swapped, err = s.CompareAndSwap(ctx, b); err != nil {
			t.Error(err)
		}
	}()
	waiting(t, db, 2, rotated)
	if err := tx.Rollback(ctx); err != nil {
		t.Error(err)
	}
	<-revoked
	<-rotated
	now, err := s.Load(ctx, "u", "c")
	if err != nil || swapped && now.Version > 0 {
		t.Errorf("the predecessor became a pointer, and its successor is %+v after the revocation, %v", now, err)
	}
	if swapped {
		t.Error("the predecessor was still there for a rotation that ended after the revocation")
	}
}
