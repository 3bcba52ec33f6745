package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead/fairlead/pool/causal"
)

const maxParallel = 16 // loads of one GetMany without LoadMany

// loadAll loads calls from the origin.
func (c *Cache[K, V]) loadAll(ctx context.Context, calls []*call[K, V], bulk bool) {
	switch {
	case len(calls) == 0:
	case bulk && c.options.LoadMany != nil:
		c.loadMany(ctx, calls)
	case len(calls) == 1:
		c.loadOne(calls[0])
	default:
		var g errgroup.Group
		g.SetLimit(maxParallel)
		for _, cl := range calls {
			g.Go(func() error {
				defer func() {
					if p := recover(); p != nil {
						c.finish(cl, outcome[V]{err: &PanicError{Value: p}}, nil)
					}
				}()
				c.loadOne(cl)
				return nil
			})
		}
		g.Wait()
	}
}

func (c *Cache[K, V]) loadOne(cl *call[K, V]) {
	var value V
	l := c.beginLoad(cl.ctx, cl)
	err := guard(func() (err error) {
		value, err = c.load(l.ctx, cl.key)
		return err
	})
	c.endLoad(l, []loaded[K, V]{{call: cl, value: value, err: err}})
}

func (c *Cache[K, V]) loadMany(ctx context.Context, calls []*call[K, V]) {
	keys := make([]K, len(calls))
	for i, cl := range calls {
		keys[i] = cl.key
	}
	var values map[K]V
	l := c.beginLoad(ctx, calls...)
	err := guard(func() (err error) {
		values, err = c.options.LoadMany(l.ctx, keys)
		return err
	})
	results := make([]loaded[K, V], len(calls))
	for i, cl := range calls {
		value, ok := values[cl.key]
		results[i] = loaded[K, V]{call: cl, value: value, err: err, absent: err == nil && !ok}
	}
	c.endLoad(l, results)
}

// origin is one call of the origin.
type origin struct {
	ctx        context.Context
	scope      *causal.Scope
	distrusted bool // it was to ask only authorities
	begun      time.Time
	start      int64
	renewed    func()
}

type loaded[K comparable, V any] struct {
	call   *call[K, V]
	value  V
	err    error
	absent bool
}

// beginLoad opens the scope of a load: it replaces the caller's, and begins where the keys were last invalidated.
func (c *Cache[K, V]) beginLoad(ctx context.Context, calls ...*call[K, V]) *origin {
	l := &origin{begun: time.Now(), start: c.clock.now()}
	l.ctx, l.scope = causal.Begin(ctx)
	tokens := make([]string, 0, 3*len(calls))
	for _, cl := range calls {
		tokens = append(tokens, c.tokens.of(cl.name), cl.token, cl.need.token)
	}
	token := merged(tokens...)
	l.distrusted = without(token, isDistrust) != token
	if c.shared != nil && l.start < c.shared.distrust.Load() || l.scope.Saw(token) != nil {
		l.scope.Domain("*").Saw("") // a position nobody knows: whoever is asked has to be the authority
		l.distrusted = true
	}
	l.renewed = c.renew(ctx, calls)
	c.counters.loads.Add(uint64(len(calls)))
	return l
}

// renew keeps the leases of calls until the returned function is called.
func (c *Cache[K, V]) renew(ctx context.Context, calls []*call[K, V]) (stop func()) {
	var asks []Ask
	for _, cl := range calls {
		if cl.loaned {
			asks = append(asks, Ask{Key: cl.name, Lease: cl.lease, Hold: leaseHold, Instead: cl.instead, Renew: true})
		}
	}
	if len(asks) == 0 {
		return func() {}
	}
	stopping, stopped := make(chan struct{}), make(chan struct{})
	timer := time.AfterFunc(leaseHold/3, func() {
		defer close(stopped)
		for {
			c.shared.call(ctx, c.options.RemoteTimeout, func(ctx context.Context) error {
				_, err := c.shared.remote.Get(ctx, c.shared.space, asks)
				return err
			})
			select {
			case <-stopping:
				return
			case <-time.After(leaseHold / 3):
			}
		}
	})
	return func() {
		if close(stopping); !timer.Stop() {
			<-stopped
		}
	}
}

// endLoad fills both tiers with what was loaded, as far as it may be kept, and ends the calls.
func (c *Cache[K, V]) endLoad(l *origin, results []loaded[K, V]) {
	l.renewed()
	c.counters.loadTime.Record(time.Since(l.begun))
	token := merged(l.scope.Seen(), written(l.ctx, l.scope))
	token = without(token, func(tag string) bool { return isClock(tag) || l.distrusted && isDistrust(tag) })
	at := positions(token)

	took := c.clock.now() - l.start
	entries := make([]*entry[V], len(results))
	stored := make([]bool, len(results))
	refused := make([]bool, len(results))
	var fills []Fill
	var filled []int // the results of fills with data
	for i := range results {
		r := &results[i]
		cl := r.call
		fill := Fill{Key: cl.name, Lease: cl.lease}
		switch {
		case r.err == nil && !r.absent:
			meta, err := c.meta(cl.key, r.value)
			if err != nil {
				r.err = err
				break
			}
			e := c.newEntry(cl)
			e.value, e.loaded = r.value, l.start
			if at != nil || meta.Tags != nil || c.shared != nil {
				e.more = &more{token: at, birth: cl.link.at, heard: cl.link.at, marks: c.stamps.marks(meta.Tags)}
			}
			entries[i] = e
			if meta.TTL < 0 {
				e.dead = l.start
				refused[i] = true
				break
			}
			ttl := max((meta.TTL - rand.N(meta.TTL/10+1)).Truncate(time.Millisecond), min(meta.TTL, time.Millisecond)) // as an envelope has it
			kept := c.kept(ttl)
			e.fresh = l.start + int64(ttl)
			e.early = c.earlyFrom(e.loaded, e.fresh, time.Duration(took))
			e.revalidate = e.fresh + int64(c.options.StaleWhileRevalidate)
			e.dead = l.start + int64(kept)
			if !cl.loaned {
				break
			}
			if !c.valid(e) { // invalidated here: the remote may not know
				refused[i] = true
				c.counters.refused.Add(1)
				break
			}
			fill.TTL = kept - time.Duration(c.clock.now()-l.start)
			if env, ok := c.seal(r.value); ok && fill.TTL >= time.Millisecond {
				env.schema, env.fresh, env.kept, env.took, env.heard, env.token = c.schema, ttl, kept, time.Duration(took), cl.link.at, token
				fill.Data, fill.Tags, fill.Heard = env.seal(), meta.Tags, cl.link.at
			}
		case r.absent || c.options.NotFound != nil && c.options.NotFound(r.err):
			e := c.newEntry(cl)
			e.absent, e.more, e.loaded = true, &more{err: r.err, token: at, birth: cl.link.at, heard: cl.link.at}, l.start
			e.fresh = l.start + int64(max(c.options.NegativeTTL, 0))
			e.early, e.revalidate, e.dead = e.fresh, e.fresh, e.fresh
			entries[i] = e
		}
		if cl.loaned {
			if fill.Data != nil {
				filled = append(filled, i)
			}
			fills = append(fills, fill)
		}
	}
	if len(fills) > 0 {
		answers, err := c.put(l.ctx, fills)
		n := 0
		for j, fill := range fills {
			if fill.Data == nil {
				continue
			}
			if i := filled[n]; err == nil {
				if stored[i], refused[i] = answers[j], !answers[j]; refused[i] {
					c.counters.refused.Add(1)
				}
			}
			n++
		}
	}
	for i := range results {
		r, e := &results[i], entries[i]
		cl := r.call
		if e == nil {
			c.loadFailed(cl, r.err)
			continue
		}
		c.succeeded(cl)
		keep := e
		switch {
		case refused[i]:
			keep = nil
		case stored[i]:
			e.more.id, e.more.birth = cl.lease, cl.known
		case c.shared != nil && !e.absent: // nobody but the bus would tell us that it is no longer right
			e.fresh = min(e.fresh, c.clock.now()+int64(c.options.DisconnectedTTL))
			e.early, e.revalidate = min(e.early, e.fresh), e.fresh
		}
		c.finish(cl, outcome[V]{entry: e, err: e.err(), from: fromOrigin}, keep)
	}
}

func (c *Cache[K, V]) put(ctx context.Context, fills []Fill) (stored []bool, err error) {
	err = c.shared.call(context.WithoutCancel(ctx), c.options.RemoteTimeout, func(ctx context.Context) error {
		stored, err = c.shared.remote.Put(ctx, c.shared.space, fills)
		if err == nil && len(stored) != len(fills) {
			err = fmt.Errorf("cache: Remote.Put gave %d answers for %d fills", len(stored), len(fills))
		}
		return err
	})
	return stored, err
}

// meta is what Options.Meta says of a value, put in order.
func (c *Cache[K, V]) meta(key K, value V) (m Meta, err error) {
	if c.options.Meta != nil {
		defer func() {
			if p := recover(); p != nil {
				err = &PanicError{Value: p, Stack: debug.Stack()}
			}
		}()
		m = c.options.Meta(key, value)
	}
	if m.TTL == 0 {
		m.TTL = c.options.TTL
	}
	if m.Tags = boundedTags(m.Tags); len(m.Tags) > maxTags {
		return m, fmt.Errorf("Options.Meta gave %d tags: must be at most %d", len(m.Tags), maxTags)
	}
	return m, err
}

// seal encodes a value for the remote; one that cannot be is kept in memory only.
func (c *Cache[K, V]) seal(value V) (e envelope, ok bool) {
	data, err := c.options.Codec.Marshal(value)
	if err == nil {
		e.value, e.compressed, err = pack(data, c.options.MaxValueSize)
	}
	if err != nil {
		c.counters.unshared.Add(1)
		c.shared.warn(2, "cache: a value cannot be stored in the shared tier and is kept in memory only, briefly", err)
	}
	return e, err == nil
}

// loadFailed ends a call whose load failed: with a stale value if there is one.
func (c *Cache[K, V]) loadFailed(cl *call[K, V], err error) {
	c.counters.loadErrors.Add(1)
	if cause := context.Cause(cl.ctx); cause == errAbandoned || cause == ErrClosed {
		c.finish(cl, outcome[V]{err: cause}, nil)
		return
	}
	err = fmt.Errorf("cache %s: load: %w", c.name, err)
	cl.shard.mu.Lock()
	c.failing(cl, err)
	spare := c.spare(cl)
	cl.shard.mu.Unlock()
	if spare == nil {
		c.finish(cl, outcome[V]{err: err}, nil)
		return
	}
	c.finish(cl, outcome[V]{entry: spare, err: spare.err(), stale: true}, cl.spare)
}

// abort ends a call before its load has ended, or begun: with a stale value if there is one and its time is up.
func (c *Cache[K, V]) abort(cl *call[K, V], cause error) {
	cl.shard.mu.Lock()
	out := c.overdue(cl, cause)
	cl.shard.mu.Unlock()
	c.finish(cl, out, nil)
}
