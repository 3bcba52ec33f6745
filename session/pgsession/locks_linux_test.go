package pgsession

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/fairlead/fairlead/session"
)

// TestRevocationsAndTouchesLockInOneOrder: rows that lie in another order than their names, and a transaction that holds the
// one that comes second by name, so that a touch has the first and waits. Whoever took the second first would wait for ever.
func TestRevocationsAndTouchesLockInOneOrder(t *testing.T) {
	db := open(t)
	s := New(db)
	ctx := t.Context()
	for _, id := range []string{"b", "a"} {
		if _, created, err := s.Create(ctx, session.Record{Tag: "u", ID: id, User: true, Left: time.Minute}); !created {
			t.Fatal(err)
		}
	}
	tx, err := db.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, `SELECT FROM fairlead_sessions WHERE tag = 'u' AND id = 'b' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { _, err := s.Revoke(ctx, "u", nil); done <- err }()
	waiting(t, db, 1, nil)
	go func() {
		done <- s.Touch(ctx, []session.Record{{Tag: "u", ID: "b", Left: time.Hour}, {Tag: "u", ID: "a", Left: time.Hour}})
	}()
	waiting(t, db, 2, nil)
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for _, id := range []string{"a", "b"} {
		if now, err := s.Load(ctx, "u", id); err != nil || now.Version != 0 {
			t.Errorf("%s: %+v, %v: survived", id, now, err)
		}
	}
}

// TestAFenceAges: by the server's clock, a login may take 15 minutes.
func TestAFenceAges(t *testing.T) {
	s := New(open(t))
	for _, c := range []struct {
		age  int64
		want error
	}{{14 * 60_000, nil}, {16 * 60_000, session.ErrRevoked}} {
		f, err := s.Fence(t.Context(), "tag")
		if err != nil {
			t.Fatal(err)
		}
		value, asked, ok := cut(f)
		if !ok {
			t.Fatal(f)
		}
		r := session.Record{Tag: "tag", ID: fmt.Sprint(c.age), User: true, Left: time.Minute, Fence: fmt.Sprintf("%d@%d", value, asked-c.age)}
		if _, _, err := s.Create(t.Context(), r); !errors.Is(err, c.want) {
			t.Errorf("a fence of %d ms: %v, want %v", c.age, err, c.want)
		}
	}
}
