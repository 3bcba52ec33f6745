package cache_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/cache"
)

// A load that was under way when its key was invalidated is not sent, even if the shared tier would still take it.
func TestInvalidatedFillIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newFakeStore(), newGate()
		n := store.node()
		var sent atomic.Int64
		n.onPut = func(fills []cache.Fill) error {
			for _, f := range fills {
				if f.Data != nil {
					sent.Add(1)
				}
			}
			return nil
		}
		c := open(t, g.load, cache.Options[int, int]{Remote: n})
		synctest.Wait()
		go c.Get(t.Context(), 1)
		<-g.begun
		n.set(func(n *fakeNode) { n.mute = true })
		if err := c.Invalidate(t.Context(), 1); !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		g.open <- nil
		synctest.Wait()
		if s := c.Stats(); sent.Load() != 0 || s.Refused != 1 || s.Entries != 0 || s.Pending != 1 {
			t.Errorf("%d fills were sent; stats: %+v", sent.Load(), s)
		}
		// The lease was given back: nobody waits for it.
		other := open(t, func(context.Context, int) (int, error) { return 5, nil }, cache.Options[int, int]{Remote: store.node()})
		start := time.Now()
		got, err := other.Get(t.Context(), 1)
		want(t, got, err, 5)
		if took := time.Since(start); took != 0 {
			t.Errorf("another process waited %v", took)
		}
	})
}

// Who waits for another process's load when the key is invalidated here asks the shared tier no more.
func TestWaitingEndsWhenPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		n := store.node()
		ask := cache.Ask{Key: "1", Lease: "0123456789abcdef", Hold: time.Hour}
		if r, err := store.node().Get(t.Context(), "test", []cache.Ask{ask}); err != nil || !r[0].Leased {
			t.Fatal(r, err)
		}
		c := open(t, o.load, cache.Options[int, int]{Remote: n})
		synctest.Wait()
		ended := make(chan error)
		go func() {
			_, err := c.Get(t.Context(), 1)
			ended <- err
		}()
		time.Sleep(time.Second)
		n.set(func(n *fakeNode) { n.mute = true })
		if err := c.Invalidate(t.Context(), 1); !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		gets, start := n.called("Get"), time.Now()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > time.Second || n.called("Get") != gets {
			t.Errorf("took %v and %d more looks", took, n.called("Get")-gets)
		}
	})
}

// warnings counts the warnings that contain text.
type warnings struct {
	slog.Handler
	text string
	n    *atomic.Int64
}

func (w warnings) Handle(_ context.Context, r slog.Record) error {
	if r.Level == slog.LevelWarn && strings.Contains(r.Message, w.text) {
		w.n.Add(1)
	}
	return nil
}

// What cannot be sent is kept. Where it is too much, everything is invalidated instead, with a warning.
func TestManyPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		n := store.node()
		w := warnings{quiet.Handler(), "too many invalidations", new(atomic.Int64)}
		c := open(t, o.load, cache.Options[int, int]{Remote: n, Logger: slog.New(w)})
		other := open(t, o.load, cache.Options[int, int]{Remote: store.node()})
		synctest.Wait()
		keys := make([]int, 100_000)
		for i := range keys {
			keys[i] = i + 100
		}
		for _, c := range []*cache.Cache[int, int]{c, other} {
			got, err := c.Get(t.Context(), 1)
			want(t, got, err, 0)
		}
		n.set(func(n *fakeNode) { n.mute = true })
		o.values[1].Store(1)
		if err := c.Invalidate(t.Context(), 1); err == nil {
			t.Fatal("confirmed")
		}
		if err := c.Invalidate(t.Context(), keys[1:]...); err == nil {
			t.Fatal("confirmed")
		}
		if s := c.Stats(); s.Pending != len(keys) || w.n.Load() != 0 {
			t.Errorf("%d warnings; stats: %+v", w.n.Load(), s)
		}
		if err := c.Invalidate(t.Context(), -1); err == nil {
			t.Fatal("confirmed")
		}
		if s := c.Stats(); s.Pending != 1 || w.n.Load() != 1 {
			t.Errorf("%d warnings; stats: %+v", w.n.Load(), s)
		}
		got, err := c.Get(t.Context(), 1) // every key passes the remote by
		want(t, got, err, 1)
		gets := n.called("Get")
		got, err = c.Get(t.Context(), 2)
		want(t, got, err, 0)
		if n.called("Get") != gets {
			t.Error("the remote was asked, which does not know what was invalidated")
		}
		n.set(func(n *fakeNode) { n.mute = false })
		time.Sleep(5 * time.Second)
		if s := c.Stats(); s.Pending != 0 || s.Replayed != 1 {
			t.Errorf("stats: %+v", s)
		}
		got, err = other.Get(t.Context(), 1)
		want(t, got, err, 1)
	})
}

// More than is remembered was invalidated in the minute before the remote lost it: everything is.
func TestManyRecent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		n := store.node()
		c := open(t, o.load, cache.Options[int, int]{Remote: n})
		other := open(t, o.load, cache.Options[int, int]{Remote: store.node()})
		synctest.Wait()
		other.Get(t.Context(), 1)
		store.mu.Lock()
		snapshot := *store.spaces["test"].keys["1"]
		store.mu.Unlock()
		o.values[1].Store(1)
		if err := c.Invalidate(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		keys := make([]int, 10_000)
		for i := range keys {
			keys[i] = i + 100
		}
		if err := c.Invalidate(t.Context(), keys...); err != nil {
			t.Fatal(err)
		}
		store.mu.Lock()
		sp := store.spaces["test"]
		sp.incarnation, sp.n = sp.incarnation+1, 0
		sp.keys["1"] = &snapshot
		store.mu.Unlock()
		n.disconnect()
		time.Sleep(5 * time.Second)
		if s := c.Stats(); s.Pending != 0 || s.Replayed == 0 {
			t.Errorf("stats: %+v", s)
		}
		for range 2 {
			got, err := other.Get(t.Context(), 1)
			want(t, got, err, 1)
		}
	})
}
