package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead/fairlead/pool/causal"
)

const (
	// A lease lasts this long without renewal: what a key costs whose loader's process dies.
	leaseHold = 3 * time.Second

	pollMin = 5 * time.Millisecond
	pollMax = 50 * time.Millisecond

	maxParallel = 16 // loads of one GetMany without LoadMany
)

// run brings calls to their ends.
func (c *Cache[K, V]) run(calls []*call[K, V], bulk bool) {
	err := errGoexit
	defer func() {
		if p := recover(); p != nil { // in the codec, or a function of Options
			err = &PanicError{Value: p}
		}
		for _, cl := range calls {
			c.finish(cl, outcome[V]{err: err}, nil)
		}
	}()
	var begun []*call[K, V]
	for _, cl := range calls {
		switch err := c.begin(cl, len(calls) == 1); {
		case err == nil:
			begun = append(begun, cl)
		case errors.Is(err, errBusy): // it must not hold up the others
			go c.run([]*call[K, V]{cl}, bulk)
		default:
			c.abort(cl, err)
		}
	}
	calls = begun
	if len(calls) > 0 {
		c.fetch(calls, bulk)
	}
}

// fetch asks the shared tier, and loads what it does not have.
func (c *Cache[K, V]) fetch(calls []*call[K, V], bulk bool) {
	ctx := calls[0].ctx
	if len(calls) > 1 {
		var done func()
		ctx, done = c.together(calls)
		defer done()
	}
	var load []*call[K, V]
	lease, ask := false, calls
	for pause := pollMin; len(ask) > 0; lease = true {
		var may []*call[K, V]
		for _, cl := range ask {
			if c.shared == nil || c.shared.pending.has(cl.name) { // perhaps since it was asked last
				load = append(load, cl)
			} else {
				may = append(may, cl)
			}
		}
		if ask = may; len(ask) == 0 {
			break
		}
		records, err := c.ask(ctx, ask, lease)
		if err != nil {
			for _, cl := range ask {
				if !c.unverified(cl) {
					load = append(load, cl)
				}
			}
			break
		}
		var wait []*call[K, V]
		for i, cl := range ask {
			switch r := records[i]; {
			case r.Leased:
				cl.loaned, cl.token = true, r.Token
				load = append(load, cl)
			case c.settle(cl, r):
			default:
				cl.instead = r.ID
				wait = append(wait, cl)
			}
		}
		if ask = wait; !lease {
			continue
		}
		c.loadAll(ctx, load, bulk) // what is ours first, then wait for others
		load = nil
		if len(ask) > 0 {
			select {
			case <-time.After(pause/2 + rand.N(pause)):
			case <-ctx.Done():
				for _, cl := range ask {
					c.abort(cl, context.Cause(ctx))
				}
				return
			}
			pause = min(2*pause, pollMax)
		}
	}
	c.loadAll(ctx, load, bulk)
}

// together returns a context for work on several calls, which ends when all of theirs have.
func (c *Cache[K, V]) together(calls []*call[K, V]) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(inside(context.WithoutCancel(calls[0].ctx), c, namesOf(calls)...))
	deadline, _ := calls[0].ctx.Deadline()
	ctx, stop := context.WithDeadlineCause(ctx, deadline, c.loadTimeout)
	var left atomic.Int64
	left.Store(int64(len(calls)))
	stops := make([]func() bool, len(calls))
	for i, cl := range calls {
		stops[i] = context.AfterFunc(cl.ctx, func() {
			if left.Add(-1) == 0 {
				cancel(context.Cause(cl.ctx))
			}
		})
	}
	return ctx, func() {
		for _, s := range stops {
			s()
		}
		stop()
		cancel(nil)
	}
}

func namesOf[K comparable, V any](calls []*call[K, V]) []string {
	names := make([]string, len(calls))
	for i, cl := range calls {
		names[i] = cl.name
	}
	return names
}

// ask reads the records of calls and, if it is to, takes leases.
func (c *Cache[K, V]) ask(ctx context.Context, calls []*call[K, V], lease bool) (records []Record, err error) {
	asks := make([]Ask, len(calls))
	limit := c.options.RemoteTimeout / 5
	for i, cl := range calls {
		asks[i] = Ask{Key: cl.name}
		if lease {
			if cl.lease == "" {
				cl.lease = newID()
			}
			asks[i].Lease, asks[i].Hold, asks[i].Instead = cl.lease, leaseHold, cl.instead
		}
		if cl.before == nil || c.clock.now() >= cl.before.dead {
			limit = c.options.RemoteTimeout
		}
	}
	err = c.shared.call(ctx, limit, func(ctx context.Context) error {
		records, err = c.shared.remote.Get(ctx, c.shared.space, asks)
		if err == nil && len(records) != len(asks) {
			err = fmt.Errorf("cache: Remote.Get gave %d records for %d asks", len(records), len(asks))
		}
		return err
	})
	return records, err
}

// settle ends a call with a record, if that is good enough for it.
func (c *Cache[K, V]) settle(cl *call[K, V], r Record) bool {
	if r.ID == "" || cl.need.blind {
		return false
	}
	b := cl.before
	e := c.entryOf(cl, r)
	if e == nil || b != nil && b.id == "" && e.loaded < b.loaded { // ours is newer; the remote was away when we got it
		return false
	}
	out := outcome[V]{entry: e, from: fromRemote}
	if b != nil && b.id == e.id {
		out.from = fromMemory
	}
	switch now := c.clock.now(); {
	case now < e.fresh:
	case now < e.revalidate && !cl.behind:
		out.stale = true
	default:
		cl.shard.mu.Lock()
		cl.spare = e
		cl.shard.mu.Unlock()
		return false
	}
	c.succeeded(cl)
	c.finish(cl, out, e)
	return true
}

// entryOf makes an entry of a record, or of what memory held if it is the same.
func (c *Cache[K, V]) entryOf(cl *call[K, V], r Record) *entry[V] {
	if b := cl.before; b != nil && b.id == r.ID {
		e := c.newEntry(cl)
		e.id, e.birth, e.value, e.token = b.id, cl.known, b.value, b.token
		e.loaded, e.fresh, e.revalidate, e.dead = b.loaded, b.fresh, b.revalidate, b.dead
		return e
	}
	env, err := openEnvelope(r.Data, c.schema)
	e := c.newEntry(cl)
	if err == nil {
		err = c.options.Codec.Unmarshal(env.value, &e.value)
	}
	if err != nil {
		c.counters.undecodable.Add(1)
		c.options.Logger.Debug("cache: a record cannot be decoded and will be replaced", "cache", c.name, "error", err)
		return nil
	}
	e.id, e.birth, e.token = r.ID, cl.known, positions(env.token)
	e.dead = c.clock.now() + int64(r.Left)
	e.loaded = e.dead - int64(env.kept)
	e.fresh = e.loaded + int64(env.fresh)
	e.revalidate = min(e.fresh+int64(c.options.StaleWhileRevalidate), e.dead)
	return e
}

func (c *Cache[K, V]) newEntry(cl *call[K, V]) *entry[V] {
	return &entry[V]{slot: cl.slot, gen: cl.gen, part: uint8(cl.start) & 15, epoch: cl.link.epoch}
}

// unverified ends a call with what memory has, where the shared tier cannot be asked and the connection was lost so lately
// that it may be trusted without.
func (c *Cache[K, V]) unverified(cl *call[K, V]) bool {
	b, now := cl.before, c.clock.now()
	if b == nil || cl.need.ahead() || b.nameless() || now-cl.link.lostAt > int64(c.options.DisconnectedTTL) || now >= b.revalidate {
		return false
	}
	c.finish(cl, outcome[V]{entry: b, err: b.err, stale: now >= b.fresh}, nil)
	return true
}

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
			e := c.newEntry(cl)
			e.value, e.token, e.birth, e.loaded = r.value, at, cl.link.at, l.start
			ttl := (c.options.TTL - rand.N(c.options.TTL/10+1)).Truncate(time.Millisecond) // as an envelope has it
			kept := ttl + max(c.options.StaleWhileRevalidate, c.options.StaleIfError)
			e.fresh = l.start + int64(ttl)
			e.revalidate = e.fresh + int64(c.options.StaleWhileRevalidate)
			e.dead = l.start + int64(kept)
			entries[i] = e
			if cl.loaned && !e.valid() { // invalidated here: the remote may not know
				refused[i] = true
				break
			}
			if cl.loaned {
				data, err := c.options.Codec.Marshal(r.value)
				if err != nil {
					c.shared.warn(0, "cache: a value cannot be encoded and is kept in memory only", err)
					break
				}
				if fill.TTL = kept - time.Duration(c.clock.now()-l.start); fill.TTL >= time.Millisecond {
					fill.Data = envelope{c.schema, ttl, kept, token, data}.seal()
				}
			}
		case r.absent || c.options.NotFound != nil && c.options.NotFound(r.err):
			e := c.newEntry(cl)
			e.absent, e.err, e.token, e.birth, e.loaded = true, r.err, at, cl.link.at, l.start
			e.fresh = l.start + int64(max(c.options.NegativeTTL, 0))
			e.revalidate, e.dead = e.fresh, e.fresh
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
				stored[i], refused[i] = answers[j], !answers[j]
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
			c.counters.refused.Add(1)
			keep = nil
		case stored[i]:
			e.id, e.birth = cl.lease, cl.known
		case c.shared != nil && !e.absent: // nobody but the bus would tell us that it is no longer right
			e.fresh = min(e.fresh, c.clock.now()+int64(c.options.DisconnectedTTL))
			e.revalidate = e.fresh
		}
		c.finish(cl, outcome[V]{entry: e, err: e.err, from: fromOrigin}, keep)
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
	c.finish(cl, outcome[V]{entry: spare, err: spare.err, stale: true}, cl.spare)
}

// abort ends a call before its load has ended, or begun: with a stale value if there is one and its time is up.
func (c *Cache[K, V]) abort(cl *call[K, V], cause error) {
	cl.shard.mu.Lock()
	out := c.overdue(cl, cause)
	cl.shard.mu.Unlock()
	c.finish(cl, out, nil)
}
