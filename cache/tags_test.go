package cache_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/pool/causal"
)

// parity tags numbers.
func parity(key, _ int) cache.Meta {
	return cache.Meta{Tags: []string{[]string{"even", "odd"}[key%2], "number"}}
}

func TestInvalidateTag(t *testing.T) {
	for name, remote := range map[string]bool{"alone": false, "shared": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, o := newFakeStore(), new(origin)
				var nodes []*cache.Cache[int, int]
				for range 2 {
					options := cache.Options[int, int]{Meta: parity, TTL: time.Hour}
					if remote {
						options.Remote = store.node()
					}
					nodes = append(nodes, open(t, o.load, options))
					if !remote {
						break
					}
				}
				synctest.Wait()
				read := func(version func(key int) int, loads int64) {
					t.Helper()
					before := o.loads.Load()
					for _, c := range nodes {
						for key := range 10 {
							got, err := c.Get(t.Context(), key)
							want(t, got, err, version(key))
						}
					}
					if n := o.loads.Load() - before; n != loads {
						t.Errorf("%d loads, want %d", n, loads)
					}
				}
				change := func(invalidate func(*cache.Cache[int, int]) error) {
					t.Helper()
					for key := range 10 {
						o.values[key].Add(1)
					}
					if err := invalidate(nodes[len(nodes)-1]); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
				}
				read(func(int) int { return 0 }, 10)
				read(func(int) int { return 0 }, 0)
				change(func(c *cache.Cache[int, int]) error { return c.InvalidateTag(t.Context(), "even") })
				read(func(key int) int { return 1 - key%2 }, 5)
				change(func(c *cache.Cache[int, int]) error { return c.InvalidateTag(t.Context(), "unknown") })
				read(func(key int) int { return 1 - key%2 }, 0)
				change(func(c *cache.Cache[int, int]) error { return c.InvalidateTag(t.Context(), "odd", "odd", "even") })
				read(func(int) int { return 3 }, 10)
				change(func(c *cache.Cache[int, int]) error { return c.InvalidateTag(t.Context(), "number") })
				read(func(int) int { return 4 }, 10)
				change(func(c *cache.Cache[int, int]) error { return c.InvalidateAll(t.Context()) })
				read(func(int) int { return 5 }, 10)
				read(func(int) int { return 5 }, 0)
				if err := nodes[0].InvalidateTag(t.Context()); err != nil {
					t.Error(err)
				}
				read(func(int) int { return 5 }, 0)
				// A process that comes later, with nothing in memory, sees it too.
				if remote {
					change(func(c *cache.Cache[int, int]) error { return c.InvalidateTag(t.Context(), "even") })
					nodes = []*cache.Cache[int, int]{open(t, o.load, cache.Options[int, int]{Meta: parity, TTL: time.Hour, Remote: store.node()})}
					synctest.Wait()
					read(func(key int) int { return 6 - key%2 }, 5)
				}
			})
		})
	}
}

// A Get that comes after an invalidation by tag does not get what a load brings that began before, though nobody knew that its
// value would have the tag; nor does the value stay.
func TestInvalidateTagDuringLoad(t *testing.T) {
	for name, invalidate := range map[string]func(context.Context, *cache.Cache[int, int]) error{
		"tag": func(ctx context.Context, c *cache.Cache[int, int]) error { return c.InvalidateTag(ctx, "even") },
		"all": func(ctx context.Context, c *cache.Cache[int, int]) error { return c.InvalidateAll(ctx) },
	} {
		for where, remote := range map[string]cache.Remote{"alone": nil, "shared": newFakeStore().node()} {
			for _, bulk := range []bool{false, true} {
				t.Run(fmt.Sprint(name, " ", where, " bulk ", bulk), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						g := newGate()
						if remote != nil {
							remote = newFakeStore().node()
						}
						c := open(t, g.load, cache.Options[int, int]{Meta: parity, Remote: remote})
						synctest.Wait()
						get := func() <-chan int {
							got := make(chan int, 1)
							go func() {
								if !bulk {
									v, _ := c.Get(t.Context(), 2)
									got <- v
									return
								}
								v, _ := c.GetMany(t.Context(), []int{2})
								got <- v[2]
							}()
							synctest.Wait()
							return got
						}
						old := get()
						<-g.begun
						if err := invalidate(t.Context(), c); err != nil {
							t.Fatal(err)
						}
						late := get()
						g.open <- nil
						if name == "tag" { // it is known only now that the load was of a value with the tag
							<-g.begun
							g.open <- nil
						} else {
							g.open <- nil
						}
						if a, b := <-old, <-late; a+b != 4003 || b != 2002 {
							t.Errorf("who came before got %d, who came after %d; want 2001 and 2002", a, b)
						}
						synctest.Wait()
						got, err := c.Get(t.Context(), 2)
						want(t, got, err, 2002)
					})
				})
			}
		}
	}
}

// What was under way elsewhere when the tag was invalidated is of no use to anybody, though it is stored.
func TestTagBeatsFillElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, g := newFakeStore(), newGate()
		nb := store.node()
		a := open(t, g.load, cache.Options[int, int]{Meta: parity, Remote: store.node()})
		b := open(t, g.load, cache.Options[int, int]{Meta: parity, Remote: nb})
		synctest.Wait()
		go b.Get(t.Context(), 2)
		<-g.begun
		release := nb.hold()
		if err := a.InvalidateTag(t.Context(), "even"); err != nil {
			t.Fatal(err)
		}
		g.open <- nil
		synctest.Wait()
		go func() { <-g.begun; g.open <- nil }()
		got, err := a.Get(t.Context(), 2)
		want(t, got, err, 2002)
		release()
		synctest.Wait()
		got, err = b.Get(t.Context(), 2)
		want(t, got, err, 2002)
	})
}

// Who invalidated a tag gets no older value on a process that has not heard of it, and others keep reading memory there.
func TestOwnWritesByTag(t *testing.T) {
	store, o := newFakeStore(), new(origin)
	nb := store.node()
	options := cache.Options[int, int]{Meta: parity, RemoteTimeout: patient, Remote: store.node()}
	a := open(t, o.load, options)
	options.Remote = nb
	b := open(t, o.load, options)
	connected(t, a, b)
	defer nb.hold()()
	for i, invalidate := range []func(context.Context) error{
		func(ctx context.Context) error { return a.InvalidateTag(ctx, "odd") },
		a.InvalidateAll,
	} {
		b.Get(t.Context(), 1)
		before := int(o.values[1].Add(1)) - 1
		ctx, _ := causal.Begin(t.Context())
		if err := invalidate(ctx); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			got, err := b.Get(t.Context(), 1)
			want(t, got, err, before)
		}
		got, err := b.Get(ctx, 1)
		want(t, got, err, before+1)
	}
}

// The token of who invalidated a tag is demanded of every load, also on a process that connects later: any key may have it.
func TestTokensOfTags(t *testing.T) {
	store := newFakeStore()
	var demanded atomic.Value
	load := func(ctx context.Context, key int) (int, error) {
		at, _ := causal.From(ctx).Domain("db1").Bound()
		demanded.Store(at)
		return key, nil
	}
	options := cache.Options[int, int]{Meta: parity, RemoteTimeout: patient, Remote: store.node()}
	a := open(t, load, options)
	connected(t, a)
	ctx, scope := causal.Begin(t.Context())
	scope.Domain("db1").Wrote("0005")
	if err := a.InvalidateTag(ctx, "even"); err != nil {
		t.Fatal(err)
	}
	options.Remote = store.node()
	b := open(t, load, options)
	connected(t, b)
	for key, c := range []*cache.Cache[int, int]{a, b} {
		got, err := c.Get(t.Context(), key)
		want(t, got, err, key)
		if at := demanded.Load(); at != "0005" {
			t.Errorf("the load of node %d demands %q", key, at)
		}
	}
}

// A tag whose invalidation waits to be sent spoils what the shared tier has.
func TestPendingTag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		n := store.node()
		options := cache.Options[int, int]{Meta: parity, Remote: n}
		c := open(t, o.load, options)
		options.Remote = store.node()
		other := open(t, o.load, options)
		synctest.Wait()
		other.Get(t.Context(), 2)
		other.Get(t.Context(), 1)
		n.set(func(n *fakeNode) { n.mute = true })
		o.values[2].Store(1)
		o.values[1].Store(1)
		if err := c.InvalidateTag(t.Context(), "even"); !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		got, err := c.Get(t.Context(), 2)
		want(t, got, err, 1)
		got, err = c.Get(t.Context(), 1) // has it not
		want(t, got, err, 0)
		n.set(func(n *fakeNode) { n.mute = false })
		time.Sleep(5 * time.Second)
		if s := c.Stats(); s.Pending != 0 || s.Replayed != 1 {
			t.Errorf("stats: %+v", s)
		}
		got, err = other.Get(t.Context(), 2)
		want(t, got, err, 1)
	})
}

// A record whose tag was invalidated while nobody could be told is checked against its stamps, not only its ID.
func TestTagsAfterReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, o := newFakeStore(), new(origin)
		n := store.node()
		options := cache.Options[int, int]{Meta: parity, Remote: n, TTL: time.Hour, StaleIfError: time.Hour}
		c := open(t, o.load, options)
		options.Remote = store.node()
		other := open(t, o.load, options)
		synctest.Wait()
		for key := range 4 {
			c.Get(t.Context(), key)
		}
		n.set(func(n *fakeNode) { n.lose = func(cache.Event) bool { return true } })
		for key := range 4 {
			o.values[key].Store(1)
		}
		if err := other.InvalidateTag(t.Context(), "even"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		n.set(func(n *fakeNode) { n.lose = nil })
		n.disconnect()
		synctest.Wait()
		loads := o.loads.Load()
		for key := range 4 {
			got, err := c.Get(t.Context(), key)
			want(t, got, err, 1-key%2)
		}
		if n := o.loads.Load() - loads; n != 2 {
			t.Errorf("%d loads, want those of the two that changed", n)
		}
	})
}

// A value that is known to be wrong is not what a failed load falls back to.
func TestInvalidatedTagIsNoSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := new(origin)
		c := open(t, o.load, cache.Options[int, int]{Meta: parity, StaleWhileRevalidate: time.Hour, StaleIfError: time.Hour})
		c.Get(t.Context(), 1)
		c.Get(t.Context(), 2)
		o.failing.Store(true)
		if err := c.InvalidateTag(t.Context(), "odd"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := c.Get(t.Context(), 1); !errors.Is(err, errOrigin) {
			t.Errorf("got %v", err)
		}
		if r, err := c.Lookup(t.Context(), 2); err != nil || !r.Stale {
			t.Errorf("got %+v, %v", r, err)
		}
	})
}

func TestMeta(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, remote := range map[string]cache.Remote{"alone": nil, "shared": newFakeStore().node()} {
			o := new(origin)
			c := open(t, o.load, cache.Options[int, int]{TTL: time.Minute, Remote: remote, Meta: func(key, _ int) cache.Meta {
				switch key {
				case 1:
					return cache.Meta{TTL: time.Second}
				case 2:
					return cache.Meta{TTL: -1}
				case 3:
					return cache.Meta{TTL: time.Hour}
				case 4:
					panic("no idea")
				case 5:
					return cache.Meta{Tags: make([]string, 100)} // the same one
				case 6:
					var m cache.Meta
					for i := range 65 {
						m.Tags = append(m.Tags, fmt.Sprint(i))
					}
					return m
				}
				return cache.Meta{}
			}})
			synctest.Wait()
			loaded := func(key int) bool {
				t.Helper()
				loads := o.loads.Load()
				got, err := c.Get(t.Context(), key)
				want(t, got, err, 0)
				return o.loads.Load() > loads
			}
			for key, reloads := range map[int][3]bool{0: {false, true, true}, 1: {true, true, true}, 2: {true, true, true}, 3: {false, false, true}, 5: {false, true, true}} {
				if !loaded(key) {
					t.Errorf("%s: key %d was there", name, key)
				}
				for i, after := range []time.Duration{2 * time.Second, 2 * time.Minute, 2 * time.Hour} {
					time.Sleep(after)
					if got := loaded(key); got != reloads[i] {
						t.Errorf("%s: key %d after %v more: loaded %v", name, key, after, got)
					}
				}
			}
			if loaded(2); !loaded(2) {
				t.Errorf("%s: a value that is not to be kept was kept", name)
			}
			var p *cache.PanicError
			if _, err := c.Get(t.Context(), 4); !errors.As(err, &p) {
				t.Errorf("%s: a panic in Meta is %v", name, err)
			}
			if _, err := c.Get(t.Context(), 6); err == nil {
				t.Errorf("%s: 65 tags", name)
			}
		}
	})
}

// After every InvalidateTag that returned, a Get that begins later sees at least what was written before it.
func TestTagIntervals(t *testing.T) {
	for name, nodes := range map[string]int{"alone": 1, "shared": 3} {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				const keys = 6
				var version [2]atomic.Int64
				load := func(_ context.Context, key int) (int, error) {
					for range rand.IntN(3) {
						runtime.Gosched()
					}
					v := int(version[key%2].Load())
					for range rand.IntN(3) {
						runtime.Gosched()
					}
					return v, nil
				}
				store := newFakeStore()
				var wg sync.WaitGroup
				var sure [3][2]atomic.Int64
				var writing [2]sync.Mutex
				for i := range nodes {
					options := cache.Options[int, int]{Meta: parity, RemoteTimeout: backstop}
					if nodes > 1 {
						options.Remote = store.node()
					}
					c := open(t, load, options)
					for range 3 {
						wg.Go(func() {
							for range 40 {
								key := rand.IntN(keys)
								if rand.IntN(4) > 0 {
									least := sure[i][key%2].Load()
									got, err := c.Get(t.Context(), key)
									if most := version[key%2].Load(); err != nil || int64(got) < least || int64(got) > most {
										t.Errorf("key %d: got %d, %v; want %d to %d", key, got, err, least, most)
									}
									continue
								}
								writing[key%2].Lock()
								v := version[key%2].Add(1)
								if err := c.InvalidateTag(t.Context(), []string{"even", "odd"}[key%2]); err != nil {
									t.Error(err)
								}
								sure[i][key%2].Store(v)
								writing[key%2].Unlock()
							}
						})
					}
				}
				wg.Wait()
			}
		})
	}
}
