package cache

import (
	"context"
	"fmt"

	"golang.org/x/sync/singleflight"
)

// waiter is a Get's place in a flight.
type waiter[K comparable, V any] struct {
	call   *call[K, V]
	made   bool
	answer <-chan singleflight.Result
}

// enter joins the flight of a key, or takes off: bulk flights are run by their caller. Where no flight is needed, or none
// may be made, it has the outcome instead.
func (c *Cache[K, V]) enter(ctx context.Context, key K, n need, bulk bool) (waiter[K, V], outcome[V]) {
	var w waiter[K, V]
	if err := ctx.Err(); err != nil {
		return w, outcome[V]{err: context.Cause(ctx)}
	}
	name := bounded(c.options.Key(key))
	if reentrant(ctx, c, name) {
		return w, outcome[V]{err: fmt.Errorf("cache %s: %w", c.name, ErrReentrant)}
	}
	slot, hash := c.fences.of(name)
	sh := c.shardOf(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.ended {
		return w, outcome[V]{err: ErrClosed}
	}
	now := c.clock.now()
	e := c.memory.get(key)
	if e != nil && (bulk || !e.nameless()) { // it may have come since
		switch c.judge(e, &n, now) {
		case fresh, early:
			return w, outcome[V]{entry: e, err: e.err()}
		case stale:
			return w, outcome[V]{entry: e, err: e.err(), stale: true}
		}
	}
	st := sh.keys[name]
	if st == nil {
		st = new(flights[K, V])
		sh.keys[name] = st
	} else {
		if cl := st.current; cl != nil && cl.ctx.Err() != nil && c.overdue(cl, cl.ctx.why()).entry != nil {
			e = c.memory.get(key)
		}
		if st.failed > 0 && st.current == nil && now < st.until {
			if e != nil && c.valid(e) && now < e.dead && !n.ahead() {
				return w, outcome[V]{entry: e, err: e.err(), stale: true}
			}
			return w, outcome[V]{err: st.err}
		}
	}
	w.call, w.made = c.join(ctx, sh, st, key, name, slot, n)
	if bulk && w.made {
		w.call.done = make(chan struct{})
	}
	w.answer = c.take(sh, w.call)
	return w, outcome[V]{}
}

// take has a flight take off, or returns where to wait for the one that did. The shard's lock is held.
func (c *Cache[K, V]) take(sh *shard[K, V], cl *call[K, V]) <-chan singleflight.Result {
	return sh.group.DoChan(cl.name, func() (any, error) {
		if cl.done != nil {
			<-cl.done
			return cl.out, nil
		}
		if cl.behind {
			defer c.revalidating.Add(-1)
		}
		c.runOne(cl)
		return cl.out, nil
	})
}

func (c *Cache[K, V]) shardOf(hash uint64) *shard[K, V] { return &c.shards[hash>>(64-6)] }

// refresh begins to fetch a stale key behind the reader, or one that is fresh still, unless somebody does already.
func (c *Cache[K, V]) refresh(ctx context.Context, key K, early *entry[V]) {
	if c.revalidating.Load() >= maxRevalidating {
		return
	}
	name := bounded(c.options.Key(key))
	slot, hash := c.fences.of(name)
	sh := c.shardOf(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	st := sh.keys[name]
	switch {
	case sh.ended, reentrant(ctx, c, name):
		return
	case early != nil && c.memory.get(key) != early: // it has come meanwhile
		return
	case st == nil:
	case st.current != nil, c.clock.now() < st.until:
		return
	}
	if c.revalidating.Add(1) > maxRevalidating {
		c.revalidating.Add(-1)
		return
	}
	if st == nil {
		st = new(flights[K, V])
		sh.keys[name] = st
	}
	if early != nil {
		c.counters.early.Add(1)
	}
	cl, _ := c.join(ctx, sh, st, key, name, slot, need{})
	cl.behind, cl.early = true, early != nil
	c.take(sh, cl)
}
