package cache

import (
	"context"
	"errors"
	"sync"

	"github.com/fairlead/fairlead/pool/causal"
)

// GetMany returns the values of keys, those that exist. What is missing is fetched at once, by one call of Options.LoadMany
// for all that nobody else is loading. If some cannot be had, the others are returned with the error.
func (c *Cache[K, V]) GetMany(ctx context.Context, keys []K) (map[K]V, error) {
	if c.closed.Load() {
		return nil, ErrClosed
	}
	scope := causal.From(ctx)
	n := c.needs(scope, ctx)
	came, seen := c.clock.now(), c.stamps.last.Load()
	found := make(map[K]V, len(keys))
	asked := make(map[K]struct{}, len(keys))
	var errs []error
	take := func(key K, out outcome[V]) {
		switch c.count(scope, out); {
		case out.entry == nil:
			if len(errs) == 0 || out.err.Error() != errs[len(errs)-1].Error() { // one origin, one error
				errs = append(errs, out.err)
			}
		case !out.entry.absent:
			found[key] = c.valueOf(out.entry)
		}
	}
	own := sync.OnceFunc(func() { n.own(ctx, scope) }) // which may take a while
	type place struct {
		key K
		waiter[K, V]
	}
	var places []place
	var made []*call[K, V]
	for _, key := range keys {
		if _, twice := asked[key]; twice {
			continue
		}
		asked[key] = struct{}{}
		if e := c.memory.get(key); e != nil {
			if out, ok := c.fromMemory(ctx, key, e, &n); ok {
				take(key, out)
				continue
			}
		}
		own()
		w, out := c.enter(ctx, key, n, true)
		if w.call == nil {
			take(key, out)
			continue
		}
		places = append(places, place{key, w})
		if w.made {
			made = append(made, w.call)
		}
	}
	if len(made) > 0 {
		go c.run(made, true)
	}
	for _, p := range places {
		out := c.await(ctx, p.waiter, came)
		if c.spoiltFor(out, seen) {
			out = c.fetchOne(ctx, p.key, n)
		}
		take(p.key, out)
	}
	return found, errors.Join(errs...)
}
