package cache_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/cache"
)

// slowOrigin answers with how often it was asked, after a while.
type slowOrigin struct {
	loads atomic.Int64
	takes atomic.Int64 // nanoseconds
	fails atomic.Bool
}

func (o *slowOrigin) load(ctx context.Context, key int) (int, error) {
	n := int(o.loads.Add(1))
	select {
	case <-time.After(time.Duration(o.takes.Load())):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	if o.fails.Load() {
		return 0, errOrigin
	}
	return n, nil
}

// Who could have a stale value waits for the soft time-out and no longer; what the load brings late is kept.
func TestSoftTimeout(t *testing.T) {
	for name, remote := range map[string]*fakeStore{"alone": nil, "shared": newFakeStore()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := new(slowOrigin)
				options := cache.Options[int, int]{
					TTL: time.Minute, StaleIfError: time.Hour, SoftTimeout: 100 * time.Millisecond, EarlyRefresh: -1,
				}
				if remote != nil {
					options.Remote = newFakeStore().node()
				}
				c := open(t, o.load, options)
				synctest.Wait()
				got, err := c.Get(t.Context(), 1)
				want(t, got, err, 1)
				o.takes.Store(int64(10 * time.Second))
				time.Sleep(2 * time.Minute)
				start := time.Now()
				for range 3 {
					var wg sync.WaitGroup
					for range 10 {
						wg.Go(func() {
							r, err := c.Lookup(t.Context(), 1)
							if took := time.Since(start); err != nil || r.Value != 1 || !r.Stale || took != 100*time.Millisecond {
								t.Errorf("got %+v, %v after %v; want the stale value after 100ms", r, err, took)
							}
						})
					}
					wg.Wait()
					start = time.Now()
				}
				if got, err := c.GetMany(t.Context(), []int{1}); err != nil || got[1] != 1 || time.Since(start) != 100*time.Millisecond {
					t.Errorf("GetMany: %v, %v after %v", got, err, time.Since(start))
				}
				time.Sleep(10 * time.Second)
				r, err := c.Lookup(t.Context(), 1)
				if err != nil || r.Value != 2 || r.Stale || r.Tier != "memory" || o.loads.Load() != 2 {
					t.Errorf("got %+v, %v after %d loads; want what the load brought late", r, err, o.loads.Load())
				}
				// Where there is nothing to serve, it is no time-out; nor where what there is is known to be wrong.
				for _, key := range []int{7, 1} {
					if err := c.Invalidate(t.Context(), 1); err != nil {
						t.Fatal(err)
					}
					start = time.Now()
					if _, err := c.Get(t.Context(), key); err != nil || time.Since(start) != 10*time.Second {
						t.Errorf("key %d: %v after %v", key, err, time.Since(start))
					}
				}
			})
		})
	}
}

func TestHardTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := new(slowOrigin)
		o.takes.Store(int64(5 * time.Second))
		c := open(t, o.load, cache.Options[int, int]{
			HardTimeout: time.Second, SoftTimeout: 100 * time.Millisecond, StaleIfError: time.Hour, EarlyRefresh: -1,
		})
		for range 2 { // the second joins, and waits as long again
			start := time.Now()
			_, err := c.Get(t.Context(), 1)
			if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
				t.Errorf("%v after %v", err, took)
			}
			if !strings.Contains(err.Error(), "HardTimeout = 1s") {
				t.Errorf("the error does not say why: %v", err)
			}
		}
		time.Sleep(5 * time.Second)
		got, err := c.Get(t.Context(), 1)
		want(t, got, err, 1) // nobody waited, and it was kept
		if n := o.loads.Load(); n != 1 {
			t.Errorf("%d loads", n)
		}
		addsUp(t, c, 3)
	})
}

// A hot key is fetched anew before its TTL ends, by one load behind, and nobody waits.
func TestEarlyRefresh(t *testing.T) {
	for name, shared := range map[string]bool{"alone": false, "shared": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, store := new(slowOrigin), newFakeStore()
				o.takes.Store(int64(100 * time.Millisecond))
				var nodes []*cache.Cache[int, int]
				for range 2 {
					options := cache.Options[int, int]{TTL: time.Minute}
					if shared {
						options.Remote = store.node()
					}
					nodes = append(nodes, open(t, o.load, options))
					if !shared {
						break
					}
				}
				synctest.Wait()
				for _, c := range nodes {
					if _, err := c.Get(t.Context(), 1); err != nil {
						t.Fatal(err)
					}
				}
				// The last possible draw is 20 load times before the end; the TTL is 54 to 60 s.
				time.Sleep(51 * time.Second)
				loads := o.loads.Load()
				for range 1000 {
					for _, c := range nodes {
						c.Get(t.Context(), 1)
					}
				}
				if n := o.loads.Load(); n != loads {
					t.Errorf("%d loads long before the end", n-loads)
				}
				for range 10_000 { // 10 s, a thousand reads a second
					for i, c := range nodes {
						start := time.Now()
						r, err := c.Lookup(t.Context(), 1)
						if err != nil || r.Stale || r.Tier == "origin" || time.Since(start) != 0 {
							t.Fatalf("node %d: %+v, %v after %v", i, r, err, time.Since(start))
						}
					}
					time.Sleep(time.Millisecond)
				}
				early := uint64(0)
				for _, c := range nodes {
					early += c.Stats().EarlyRefreshes
				}
				if n := o.loads.Load() - loads; n != 1 || early == 0 || early > 2 {
					t.Errorf("%d loads and %d early refreshes for one TTL, want 1 load", n, early)
				}
			})
		})
	}
}

func TestNoEarlyRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := new(slowOrigin)
		o.takes.Store(int64(time.Second))
		c := open(t, o.load, cache.Options[int, int]{EarlyRefresh: -1})
		c.Get(t.Context(), 1)
		for range 5000 {
			c.Get(t.Context(), 1)
			time.Sleep(10 * time.Millisecond)
		}
		if s := c.Stats(); s.Loads != 1 || s.EarlyRefreshes != 0 {
			t.Errorf("stats: %+v", s)
		}
	})
}

// Loads that nobody waits for are bounded, however many keys are stale.
func TestRevalidationsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := new(slowOrigin)
		c := open(t, o.load, cache.Options[int, int]{StaleWhileRevalidate: time.Hour, EarlyRefresh: -1})
		const keys = 500
		for key := range keys {
			c.Get(t.Context(), key)
		}
		time.Sleep(2 * time.Minute)
		o.takes.Store(int64(time.Second))
		loads := o.loads.Load()
		for key := range keys {
			if r, err := c.Lookup(t.Context(), key); err != nil || !r.Stale {
				t.Errorf("got %+v, %v", r, err)
			}
		}
		synctest.Wait()
		if n := o.loads.Load() - loads; n != 64 {
			t.Errorf("%d loads at a time", n)
		}
	})
}

// The remote is gone, for longer than memory may be trusted. What memory has costs the origin no more than a bounded number of
// loads at a time; the rest is served, and flagged.
func TestLoadsUnderLossAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, n := new(slowOrigin), newFakeStore().node()
		c := open(t, o.load, cache.Options[int, int]{Remote: n, TTL: time.Hour, EarlyRefresh: -1, MaxEntries: 1000})
		synctest.Wait()
		const keys = 200
		for key := range keys {
			c.Get(t.Context(), key)
		}
		n.set(func(n *fakeNode) { n.down = true })
		n.disconnect()
		time.Sleep(10 * time.Second)
		o.takes.Store(int64(time.Second))
		loads := o.loads.Load()
		var stale, fresh atomic.Int64
		var wg sync.WaitGroup
		for key := range keys {
			wg.Go(func() {
				switch r, err := c.Lookup(t.Context(), key); {
				case err != nil:
					t.Error(err)
				case r.Stale:
					stale.Add(1)
				default:
					fresh.Add(1)
				}
			})
		}
		wg.Wait()
		if n := o.loads.Load() - loads; n != 32 || fresh.Load() != 32 || stale.Load() != keys-32 {
			t.Errorf("%d loads, %d fresh values and %d flagged ones", n, fresh.Load(), stale.Load())
		}
		if s := c.Stats(); s.Unverified != keys-32 {
			t.Errorf("stats: %+v", s)
		}
		// The places are free again, and what memory lacks needs none.
		for _, key := range []int{keys - 1, keys + 1} {
			if r, err := c.Lookup(t.Context(), key); err != nil || r.Stale {
				t.Errorf("got %+v, %v", r, err)
			}
		}
		addsUp(t, c, 2*keys+2)
	})
}

// What a remote that hangs may take: nothing of a hit, a fifth of its budget where a value is at hand, all of it where none is.
func TestBudgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, n := new(origin), newFakeStore().node()
		c := open(t, o.load, cache.Options[int, int]{Remote: n, TTL: time.Minute, StaleIfError: time.Hour, EarlyRefresh: -1})
		synctest.Wait()
		for key := range 20 {
			c.Get(t.Context(), key)
		}
		get := func(key int) time.Duration {
			start := time.Now()
			if _, err := c.Get(t.Context(), key); err != nil {
				t.Error(err)
			}
			return time.Since(start)
		}
		n.set(func(n *fakeNode) { n.hang, n.down = true, true })
		if took := get(1); took != 0 {
			t.Errorf("a hit took %v", took)
		}
		if took := get(50); took != 250*time.Millisecond {
			t.Errorf("a miss took %v", took)
		}
		time.Sleep(2 * time.Minute)
		if took := get(2); took != 50*time.Millisecond {
			t.Errorf("with a stale value at hand it took %v", took)
		}
		many := time.Now()
		if got, err := c.GetMany(t.Context(), []int{60, 61, 62, 63}); err != nil || len(got) != 4 || time.Since(many) != 250*time.Millisecond {
			t.Errorf("four misses at once took %v: %v, %v", time.Since(many), got, err)
		}
		n.set(func(n *fakeNode) { n.hang, n.down = false, false })
		gets := n.called("Get")
		for key := 80; key < 90; key++ {
			if took := get(key); took != 0 {
				t.Errorf("a miss took %v with the remote back", took)
			}
		}
		if n.called("Get") < gets+10 {
			t.Error("the remote is not asked any more")
		}
	})
}

// With Clone each reader has a value of its own.
func TestClone(t *testing.T) {
	load := func(_ context.Context, key int) ([]int, error) { return []int{key}, nil }
	for name, o := range map[string]cache.Options[int, []int]{
		"alone":  {Clone: slices.Clone[[]int]},
		"shared": {Clone: slices.Clone[[]int], Remote: newFakeStore().node(), RemoteTimeout: patient},
	} {
		c := open(t, load, o)
		spoil := func(v []int, err error) {
			t.Helper()
			if err != nil || len(v) != 1 || v[0] != 1 {
				t.Fatalf("%s: got %v, %v", name, v, err)
			}
			v[0] = 99
		}
		for range 3 {
			spoil(c.Get(t.Context(), 1))
			r, err := c.Lookup(t.Context(), 1)
			spoil(r.Value, err)
			many, err := c.GetMany(t.Context(), []int{1})
			spoil(many[1], err)
		}
		if s := c.Stats(); s.Loads != 1 {
			t.Errorf("%s: stats: %+v", name, s)
		}
	}
}
