package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// Get returns the value of key: from memory, from the shared tier or from a load, which all who ask meanwhile share. It
// waits no longer than ctx. If the load fails, a value no staler than Options.StaleIfError is returned instead of its error,
// and for a moment, longer each time, its error is returned without another load. A panic in the load is a *[PanicError].
func (c *Cache[K, V]) Get(ctx context.Context, key K) (V, error) {
	e, scope := c.memory.get(key), causal.From(ctx)
	if e != nil && c.good(e, ctx, scope) {
		return c.valueOf(e), e.err()
	}
	out := c.get(ctx, key, e, scope)
	if out.entry == nil {
		var none V
		return none, out.err
	}
	return c.valueOf(out.entry), out.err
}

// good says whether e is what a reader gets, fresh and with nothing left to do but to count it. It is the path that must cost
// nothing: whatever is out of the ordinary is not good, and left to get.
func (c *Cache[K, V]) good(e *entry[V], ctx context.Context, scope *causal.Scope) bool {
	if c.clock.hit() >= e.early || c.closed.Load() || wantsFresh(ctx) || e.nameless() {
		return false
	}
	// What has been heard is looked at before whether the value is valid still: a message makes values useless first, and then
	// moves the clock.
	if s := c.shared; s != nil {
		l := s.link.Load()
		if e.epoch != l.epoch || !l.connected {
			return false
		}
		if scope != nil {
			if bound, settled := s.domain(scope).Bound(); !settled || bound > l.at && bound > e.rest().birth {
				return false
			}
		}
	}
	if !c.valid(e) {
		return false
	}
	if scope != nil && e.more != nil {
		e.saw(scope)
	}
	c.counters.hit()
	return true
}

// valueOf is an entry's value as a reader gets it.
func (c *Cache[K, V]) valueOf(e *entry[V]) V {
	if c.options.Clone != nil && !e.absent {
		return c.options.Clone(e.value)
	}
	return e.value
}

// Result is a value and where it came from, as much as a Cache-Status header (RFC 9211) tells.
type Result[V any] struct {
	Value V
	// Tier is "memory" or "remote" for a hit, "origin" for a value that was loaded.
	Tier string
	// Age is how long ago the load of the value began.
	Age time.Duration
	// TTL is how long the value stays fresh, negative since when it is not.
	TTL time.Duration
	// Stale says that the value is past its TTL, or could not be checked for too long, and is served while a new one is fetched
	// or because fetching it failed.
	Stale bool
	// Coalesced says that the value came from a load that another Get had begun.
	Coalesced bool
}

// Lookup is Get with the circumstances. They are known for a "not found" too, whose error comes with them.
func (c *Cache[K, V]) Lookup(ctx context.Context, key K) (Result[V], error) {
	out := outcome[V]{entry: c.memory.get(key)}
	if e, scope := out.entry, causal.From(ctx); e != nil && c.good(e, ctx, scope) {
		out.err = e.err()
	} else if out = c.get(ctx, key, e, scope); out.entry == nil {
		return Result[V]{}, out.err
	}
	now := c.clock.now()
	return Result[V]{
		Value: c.valueOf(out.entry), Tier: tierNames[out.from],
		Age: time.Duration(max(now-out.entry.loaded, 0)), TTL: time.Duration(out.entry.fresh - now),
		Stale: out.stale, Coalesced: out.coalesced,
	}, out.err
}

type tier uint8

const (
	fromMemory tier = iota
	fromRemote
	fromOrigin
)

var tierNames = [...]string{"memory", "remote", "origin"}

// verdict is what a memory entry is good for.
type verdict uint8

const (
	useless verdict = iota
	fresh
	early // fresh, and the time has come to fetch it anew
	stale
	behindReader // fresh or stale, but not for a reader whose own writes are ahead of it
)

// judge says what e is good for. The need was found out before.
func (c *Cache[K, V]) judge(e *entry[V], n *need, now int64) verdict {
	if !c.valid(e) {
		return useless
	}
	v := fresh
	if now >= e.early {
		switch {
		case now < e.fresh:
			if c.refreshes(e, now) {
				v = early
			}
		case now < e.revalidate:
			v = stale
		default:
			return useless
		}
	}
	if s := c.shared; s != nil {
		l := s.link.Load()
		switch {
		case e.epoch != l.epoch, !l.connected && now-e.loaded > int64(c.options.DisconnectedTTL):
			return useless
		case n.blind, n.bound != "" && n.bound > e.rest().birth:
			return behindReader
		}
	}
	if n.fresh {
		return useless
	}
	return v
}

// earlyWindow is how many times as long as its load took an early refresh may come before the end: earlier ones have a
// probability of e^-20.
const earlyWindow = 20

// earlyFrom is when hits on a value begin to draw.
func (c *Cache[K, V]) earlyFrom(loaded, fresh int64, took time.Duration) int64 {
	if c.options.EarlyRefresh < 0 {
		return fresh
	}
	return max(fresh-int64(earlyWindow*c.options.EarlyRefresh*float64(took)), loaded)
}

// refreshes draws whether this hit fetches the value anew: XFetch of Vattani et al., now - delta·beta·ln(rand) ≥ expiry. delta·beta
// is the window's part.
func (c *Cache[K, V]) refreshes(e *entry[V], now int64) bool {
	delta := float64(e.fresh-e.early) / earlyWindow
	return float64(now)+delta*rand.ExpFloat64() >= float64(e.fresh)
}

// needs is what the reader behind ctx demands.
func (c *Cache[K, V]) needs(scope *causal.Scope, ctx context.Context) (n need) {
	n.fresh = wantsFresh(ctx)
	if s := c.shared; s != nil && scope != nil {
		bound, settled := s.domain(scope).Bound()
		if !settled {
			n.blind = true
		} else if bound > s.link.Load().at {
			n.bound = bound
		}
	}
	return n
}

// get is a Get that found e in memory, or nothing, and could not tell at once that it is good.
func (c *Cache[K, V]) get(ctx context.Context, key K, e *entry[V], scope *causal.Scope) outcome[V] {
	if c.closed.Load() {
		return outcome[V]{err: ErrClosed}
	}
	n := c.needs(scope, ctx)
	if e != nil {
		out, ok := c.fromMemory(ctx, key, e, &n)
		if ok && !e.nameless() {
			return c.count(scope, out)
		}
	}
	n.own(ctx, scope)
	return c.count(scope, c.fetchOne(ctx, key, n))
}

// fromMemory is what a reader gets who finds e, if that will do.
func (c *Cache[K, V]) fromMemory(ctx context.Context, key K, e *entry[V], n *need) (outcome[V], bool) {
	switch c.judge(e, n, c.clock.hit()) {
	case fresh:
		return outcome[V]{entry: e, err: e.err()}, true
	case early:
		c.refresh(ctx, key, e)
		return outcome[V]{entry: e, err: e.err()}, true
	case stale:
		c.refresh(ctx, key, nil)
		return outcome[V]{entry: e, err: e.err(), stale: true}, true
	case behindReader:
		c.counters.ownWrites.Add(1)
	}
	return outcome[V]{}, false
}

// fetchOne is a Get that memory cannot answer.
func (c *Cache[K, V]) fetchOne(ctx context.Context, key K, n need) (out outcome[V]) {
	came, seen := c.clock.now(), c.stamps.last.Load()
	for range 3 {
		var w waiter[K, V]
		if w, out = c.enter(ctx, key, n, false); w.call != nil {
			out = c.await(ctx, w, came)
			if c.spoiltFor(out, seen) { // the flight had begun before an invalidation by a tag that its value turned out to have
				continue
			}
		}
		if out.entry == nil || !out.entry.nameless() {
			return out
		}
	}
	if out.entry != nil && !out.entry.nameless() {
		return out
	}
	return outcome[V]{err: fmt.Errorf("cache %s: %w", c.name, errNameless)}
}

// spoiltFor says whether a value is no longer right for a reader who came when the stamps stood at seen.
func (c *Cache[K, V]) spoiltFor(out outcome[V], seen uint64) bool {
	e := out.entry
	return e != nil && e.since < seen && (e.since < c.stamps.floor.Load() || spoilt(e.rest().marks, e.since))
}

var errNameless = errors.New("LoadMany knows no such key")

// count counts what a Get came to and raises the reader's scope to it.
func (c *Cache[K, V]) count(scope *causal.Scope, out outcome[V]) outcome[V] {
	n := &c.counters
	switch {
	case out.entry == nil:
		n.errors.Add(1)
		return out
	case out.stale:
		n.stale.Add(1)
	case out.from == fromMemory:
		n.hit()
	case out.from == fromRemote:
		n.remote.Add(1)
	default:
		n.miss.Add(1)
	}
	if out.coalesced {
		n.coalesced.Add(1)
	}
	if scope != nil {
		out.entry.saw(scope)
	}
	return out
}
