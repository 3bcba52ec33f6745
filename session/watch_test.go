package session

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatch: two processes on one store, in virtual time.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var down atomic.Bool
		var loads atomic.Int64
		store := NewMemory(0)
		here := manager(t, both{hooked{store, func(_ context.Context, call string) error {
			if call == "load" {
				loads.Add(1)
			}
			if down.Load() {
				return fmt.Errorf("%w: away", ErrUnavailable)
			}
			return nil
		}}, store.(UserIndex)}, Options{Absolute: 2 * time.Hour})
		elsewhere := manager(t, store, Options{Absolute: 2 * time.Hour})
		other := request(elsewhere, "")
		logIn(t, elsewhere, other, "bob")

		watch := func() (s *Session[visitor], cookie string, ended chan error) {
			s = request(here, "")
			logIn(t, here, s, "ann")
			cookie, ended = s.token.text(), make(chan error, 1)
			go func() { ended <- s.Watch(t.Context()) }()
			synctest.Wait()
			return s, cookie, ended
		}
		within := func(what string, ended chan error, want error, d time.Duration) {
			t.Helper()
			began := time.Now()
			err := <-ended
			if took := time.Since(began); !errors.Is(err, want) || took > d {
				t.Errorf("%s: %v after %v, want %v within %v", what, err, took, want, d)
			}
		}
		goesOn := func(what string, ended chan error, d time.Duration) {
			t.Helper()
			select {
			case err := <-ended:
				t.Fatalf("%s: ended with %v", what, err)
			case <-time.After(d):
			}
		}
		const every = 5*time.Second + 500*time.Millisecond

		_, cookie, ended := watch()
		began := loads.Load()
		goesOn("another user's logout", ended, 0)
		if err := other.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		goesOn("nothing", ended, time.Minute)
		if n := loads.Load() - began; n < 10 || n > 14 {
			t.Errorf("%d looks in a minute, want 12 or so", n)
		}
		if err := request(elsewhere, cookie).Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		within("a logout elsewhere", ended, ErrEnded, every)

		_, cookie, ended = watch()
		if err := request(here, cookie).Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		within("a logout here", ended, ErrEnded, 0)

		_, _, ended = watch()
		if err := here.RevokeUser(t.Context(), "ann"); err != nil {
			t.Fatal(err)
		}
		within("a revocation here", ended, ErrEnded, 0)

		_, _, ended = watch()
		for info := range here.List(t.Context(), "ann") {
			if err := here.EndSession(t.Context(), "bob", info.ID); !errors.Is(err, ErrEnded) {
				t.Errorf("another user's: %v", err)
			}
			if err := here.EndSession(t.Context(), "ann", info.ID); err != nil {
				t.Error(err)
			}
		}
		within("the end of one session", ended, ErrEnded, 0)

		// The store is away: nobody is logged out, and what happened meanwhile is noticed later.
		_, cookie, ended = watch()
		down.Store(true)
		goesOn("an outage", ended, time.Minute)
		if err := request(elsewhere, cookie).Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		goesOn("an outage", ended, time.Minute)
		down.Store(false)
		within("the end of an outage", ended, ErrEnded, every)

		// A rotation is followed, also elsewhere, and what the watched session itself does.
		s, cookie, ended := watch()
		moved := request(elsewhere, cookie)
		if err := moved.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		goesOn("a rotation", ended, time.Minute)
		if _, err := s.Update(t.Context(), visit); err != nil {
			t.Errorf("Update of a watched session that was rotated: %v", err)
		}
		if err := moved.Logout(t.Context()); err != nil {
			t.Fatal(err)
		}
		within("a logout after a rotation", ended, ErrEnded, every)

		// An anonymous session that becomes a user's.
		cookie = begin(t, here)
		s = request(here, cookie)
		go func() { ended <- s.Watch(t.Context()) }()
		synctest.Wait()
		logIn(t, here, request(here, cookie), "ann")
		within("a login", ended, ErrRotated, 0)

		// Watching is no use.
		_, _, ended = watch()
		within("idleness", ended, ErrEnded, 30*time.Minute+time.Second)

		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("the socket is gone")
		s, _, ended = watch()
		go func() { ended <- s.Watch(ctx) }()
		synctest.Wait()
		cancel(gone)
		within("the caller", ended, gone, 0)
		here.Close()
		within("Close", ended, ErrClosed, 0)
		if n := len(here.watches.waiting); n != 0 {
			t.Errorf("%d tags still have watchers", n)
		}
		if err := request(here, "").Watch(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Watch after Close: %v", err)
		}
		if err := request(elsewhere, "").Watch(t.Context()); !errors.Is(err, ErrEnded) {
			t.Errorf("Watch without a session: %v", err)
		}
		elsewhere.Close()
	})
}
