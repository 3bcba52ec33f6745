package cache_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/cache"
)

// hanging is an origin that can stop to answer. deaf loads do not look at their context either.
type hanging struct {
	loads atomic.Int64
	stuck atomic.Bool
	deaf  bool
	over  chan struct{} // ends the deaf ones
}

func newHanging(t *testing.T, deaf bool) *hanging {
	h := &hanging{deaf: deaf, over: make(chan struct{})}
	t.Cleanup(func() { close(h.over) })
	return h
}

func (h *hanging) load(ctx context.Context, key int) (int, error) {
	n := int(h.loads.Add(1))
	if !h.stuck.Load() {
		return 1000*key + n, nil
	}
	if h.deaf {
		<-h.over
		return 0, errors.New("too late")
	}
	<-ctx.Done()
	return 0, context.Cause(ctx)
}

// An origin that hangs is one that fails: at LoadTimeout the stale value is served, and the origin is left alone for a while.
func TestStaleIfOriginHangs(t *testing.T) {
	for name, deaf := range map[string]bool{"heeds its context": false, "does not": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHanging(t, deaf)
				c := open(t, h.load, cache.Options[int, int]{StaleIfError: time.Hour, LoadTimeout: time.Second})
				look := func(ctx context.Context, takes time.Duration, loads int64) {
					t.Helper()
					start := time.Now()
					r, err := c.Lookup(ctx, 1)
					if err != nil || r.Value != 1001 || !r.Stale {
						t.Errorf("got %+v, %v; want the stale value", r, err)
					}
					if took := time.Since(start); took != takes || h.loads.Load() != loads {
						t.Errorf("after %v and %d loads, want %v and %d", took, h.loads.Load(), takes, loads)
					}
				}
				got, err := c.Get(t.Context(), 1)
				want(t, got, err, 1001)
				time.Sleep(2 * time.Minute)
				h.stuck.Store(true)
				var wg sync.WaitGroup
				for range 50 {
					wg.Go(func() { look(t.Context(), time.Second, 2) })
				}
				wg.Wait()
				for range 10 {
					look(t.Context(), 0, 2)
				}
				// 50 waiters are one failure: the first pause is 50 ms and a quarter.
				time.Sleep(65 * time.Millisecond)
				look(t.Context(), time.Second, 3)
				look(t.Context(), 0, 3)
				time.Sleep(10 * time.Second)
				loads := int64(4)
				if deaf { // two are running, so this one does not get to begin
					loads = 3
				}
				look(t.Context(), time.Second, loads)
				look(t.Context(), 0, loads)

				// A value that is known to be wrong, or not what was asked for, is not served.
				time.Sleep(10 * time.Second)
				if _, err := c.Get(cache.Fresh(t.Context()), 1); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Fresh, with an origin that hangs: %v", err)
				}
				if err := c.Invalidate(t.Context(), 1); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Get(t.Context(), 1); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("after an invalidation, with an origin that hangs: %v", err)
				}
			})
		})
	}
}

func TestTooStaleIfOriginHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHanging(t, false)
		c := open(t, h.load, cache.Options[int, int]{StaleIfError: time.Minute, LoadTimeout: time.Second})
		c.Get(t.Context(), 1)
		time.Sleep(2*time.Minute - 500*time.Millisecond) // it ends while the load hangs
		h.stuck.Store(true)
		if got, err := c.Get(t.Context(), 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %d, %v", got, err)
		}
	})
}

func TestInvalidatedWhileOriginHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHanging(t, false)
		c := open(t, h.load, cache.Options[int, int]{StaleIfError: time.Hour, LoadTimeout: time.Second})
		c.Get(t.Context(), 1)
		time.Sleep(2 * time.Minute)
		h.stuck.Store(true)
		ended := make(chan error)
		go func() {
			_, err := c.Get(t.Context(), 1)
			ended <- err
		}()
		time.Sleep(500 * time.Millisecond)
		if err := c.Invalidate(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the time-out: what was stale is known to be wrong", err)
		}
	})
}

// A load behind that hangs does not make the next reader wait for another.
func TestRevalidationHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHanging(t, true)
		c := open(t, h.load, cache.Options[int, int]{StaleWhileRevalidate: time.Minute, StaleIfError: time.Hour, LoadTimeout: time.Second})
		c.Get(t.Context(), 1)
		time.Sleep(90 * time.Second)
		h.stuck.Store(true)
		for range 2 {
			start := time.Now()
			if r, err := c.Lookup(t.Context(), 1); err != nil || !r.Stale || time.Since(start) != 0 {
				t.Errorf("got %+v, %v after %v", r, err, time.Since(start))
			}
			time.Sleep(time.Minute)
		}
		if n := h.loads.Load(); n != 2 {
			t.Errorf("%d loads, want the first and the one that hangs", n)
		}
	})
}

// The stale value may be the shared tier's, and the load that hangs another process's.
func TestStaleRecordIfOriginHangs(t *testing.T) {
	for name, elsewhere := range map[string]bool{"here": false, "in another process": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, store := newHanging(t, true), newFakeStore()
				options := func(limit time.Duration) cache.Options[int, int] {
					return cache.Options[int, int]{StaleIfError: time.Hour, LoadTimeout: limit, Remote: store.node()}
				}
				a := open(t, h.load, options(time.Hour))
				b := open(t, h.load, options(time.Second))
				synctest.Wait()
				a.Get(t.Context(), 1)
				time.Sleep(2 * time.Minute)
				h.stuck.Store(true)
				if elsewhere {
					go a.Get(t.Context(), 1)
					time.Sleep(time.Second)
				}
				start := time.Now()
				for range 3 {
					if r, err := b.Lookup(t.Context(), 1); err != nil || r.Value != 1001 || !r.Stale {
						t.Errorf("got %+v, %v; want the stale value", r, err)
					}
				}
				if took := time.Since(start); took != time.Second || h.loads.Load() != 2 {
					t.Errorf("took %v and %d loads, want one time-out and 2", took, h.loads.Load())
				}
			})
		})
	}
}
