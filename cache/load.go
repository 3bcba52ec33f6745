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
				defer c.ended([]*call[K, V]{cl})
				c.loadOne(cl)
				return nil
			})
		}
		g.Wait()
	}
}

func (c *Cache[K, V]) loadOne(cl *call[K, V]) {
	calls := [...]*call[K, V]{cl}
	l := c.beginLoad(&cl.ctx, calls[:])
	results := [...]loaded[K, V]{{call: cl, err: errGoexit}}
	r := &results[0]
	defer func() { // a load may end its goroutine
		if p := recover(); p != nil {
			r.err = &PanicError{Value: p, Stack: debug.Stack()}
		}
		c.endLoad(l, results[:])
	}()
	r.value, r.err = c.load(l.ctx, cl.key)
}

func (c *Cache[K, V]) loadMany(ctx context.Context, calls []*call[K, V]) {
	keys := make([]K, len(calls))
	for i, cl := range calls {
		keys[i] = cl.key
	}
	var values map[K]V
	err := errGoexit
	l := c.beginLoad(ctx, calls)
	defer func() {
		if p := recover(); p != nil {
			err = &PanicError{Value: p, Stack: debug.Stack()}
		}
		results := make([]loaded[K, V], len(calls))
		for i, cl := range calls {
			value, ok := values[cl.key]
			results[i] = loaded[K, V]{call: cl, value: value, err: err, absent: err == nil && !ok}
		}
		c.endLoad(l, results)
	}()
	values, err = c.options.LoadMany(l.ctx, keys)
}

// origin is one call of the origin.
type origin struct {
	ctx        context.Context
	scope      *causal.Scope
	distrusted bool // it was to ask only authorities
	start      int64
	took       int64
	token      string
	at         []position
	renewed    func()
}

type loaded[K comparable, V any] struct {
	call   *call[K, V]
	value  V
	err    error
	absent bool

	entry           *entry[V]
	stored, refused bool // by the remote; refused is also what is not to be kept
	fill            Fill
}

// beginLoad opens the scope of a load: it replaces the caller's, and begins where the keys were last invalidated.
func (c *Cache[K, V]) beginLoad(ctx context.Context, calls []*call[K, V]) (l origin) {
	l.start = c.clock.now()
	l.ctx, l.scope = causal.Begin(ctx)
	if c.shared != nil {
		for _, cl := range calls {
			cl.shard.mu.Lock()
			cl.loads = true
			cl.shard.mu.Unlock()
		}
	}
	token := ""
	for _, cl := range calls {
		if t := c.tokens.of(cl.name); t != "" || cl.token != "" || cl.need.token != "" {
			token = merged(token, t, cl.token, cl.need.token)
		}
	}
	if token != "" {
		l.distrusted = without(token, isDistrust) != token
	}
	if c.shared != nil && l.start < c.shared.distrust.Load() || token != "" && l.scope.Saw(token) != nil {
		l.scope.Domain("*").Saw("") // a position nobody knows: whoever is asked has to be the authority
		l.distrusted = true
	}
	if c.shared != nil {
		for _, cl := range calls {
			cl.shard.mu.Lock()
			cl.asked = &token
			cl.shard.mu.Unlock()
		}
		l.renewed = c.renew(ctx, calls)
	}
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
		return nil
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
func (c *Cache[K, V]) endLoad(l origin, results []loaded[K, V]) {
	if l.renewed != nil {
		l.renewed()
	}
	l.took = c.clock.now() - l.start
	c.counters.loadTime.Record(time.Duration(l.took))
	if seen, wrote := l.scope.Seen(), written(l.ctx, l.scope); seen != "" || wrote != "" {
		l.token = without(merged(seen, wrote), func(tag string) bool { return isClock(tag) || l.distrusted && isDistrust(tag) })
		l.at = positions(l.token)
	}
	fills := 0
	for i := range results {
		if c.value(&l, &results[i]); results[i].call.loaned {
			fills++
		}
	}
	if fills > 0 {
		c.store(l.ctx, results, fills)
	}
	for i := range results {
		r := &results[i]
		cl, e := r.call, r.entry
		if e == nil {
			c.loadFailed(cl, r.err)
			continue
		}
		c.succeeded(cl)
		keep := e
		switch {
		case r.refused:
			keep = nil
		case r.stored:
			e.more.id, e.more.birth = cl.lease, cl.known
		case c.shared != nil && !e.absent: // nobody but the bus would tell us that it is no longer right
			e.fresh = min(e.fresh, c.clock.now()+int64(c.options.DisconnectedTTL))
			e.early, e.revalidate = min(e.early, e.fresh), e.fresh
		}
		c.finish(cl, outcome[V]{entry: e, err: e.err(), from: fromOrigin}, keep)
	}
}

// value makes an entry, and a fill if there is a lease, of what a load brought.
func (c *Cache[K, V]) value(l *origin, r *loaded[K, V]) {
	cl := r.call
	e := c.newEntry(cl)
	e.loaded = l.start
	switch {
	case r.err == nil && !r.absent:
	case r.absent || c.options.NotFound != nil && c.options.NotFound(r.err):
		e.absent, e.more = true, &more{err: r.err, token: l.at, birth: cl.link.at, heard: cl.heard}
		e.fresh = l.start + int64(max(c.options.NegativeTTL, 0))
		e.early, e.revalidate, e.dead = e.fresh, e.fresh, e.fresh
		r.entry = e
		return
	default:
		return
	}
	meta, err := c.meta(cl.key, r.value)
	if err != nil {
		r.err = err
		return
	}
	r.entry, e.value = e, r.value
	if l.at != nil || meta.Tags != nil || c.shared != nil {
		e.more = &more{token: l.at, birth: cl.link.at, heard: cl.heard, marks: c.stamps.marks(meta.Tags)}
		e.tagged = e.more.marks != nil
	}
	if meta.TTL < 0 {
		e.dead, r.refused = l.start, true
		return
	}
	ttl := max((meta.TTL - rand.N(meta.TTL/10+1)).Truncate(time.Millisecond), min(meta.TTL, time.Millisecond)) // as an envelope has it
	kept := c.kept(ttl)
	e.fresh = l.start + int64(ttl)
	e.early = c.earlyFrom(e.loaded, e.fresh, time.Duration(l.took))
	e.revalidate = e.fresh + int64(c.options.StaleWhileRevalidate)
	e.dead = l.start + int64(kept)
	if !cl.loaned {
		return
	}
	if !c.valid(e) { // invalidated here: the remote may not know
		r.refused = true
		c.counters.refused.Add(1)
		return
	}
	left := kept - time.Duration(c.clock.now()-l.start)
	if env, ok := c.seal(r.value); ok && left >= time.Millisecond {
		env.schema, env.fresh, env.kept, env.took, env.heard, env.token = c.schema, ttl, kept, time.Duration(l.took), cl.heard, l.token
		r.fill = Fill{Data: env.seal(), TTL: left, Tags: meta.Tags, Heard: cl.heard}
	}
}

// store sends fills to the remote, and gives the leases back of which nothing came.
func (c *Cache[K, V]) store(ctx context.Context, results []loaded[K, V], n int) {
	fills := make([]Fill, 0, n)
	for i := range results {
		if cl := results[i].call; cl.loaned {
			f := results[i].fill
			f.Key, f.Lease = cl.name, cl.lease
			fills = append(fills, f)
		}
	}
	answers, err := c.put(ctx, fills)
	if err != nil {
		return
	}
	for i := range results {
		r := &results[i]
		if !r.call.loaned {
			continue
		}
		if r.fill.Data != nil {
			if r.stored, r.refused = answers[0], !answers[0]; r.refused {
				c.counters.refused.Add(1)
			}
		}
		answers = answers[1:]
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
		c.shared.warn(warnUnshared, "cache: a value cannot be stored in the shared tier and is kept in memory only, briefly", err)
	}
	return e, err == nil
}

// loadFailed ends a call whose load failed: with a stale value if there is one.
func (c *Cache[K, V]) loadFailed(cl *call[K, V], err error) {
	c.counters.loadErrors.Add(1)
	if cause := cl.ctx.why(); cause == errAbandoned || cause == ErrClosed {
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
