package cache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"
)

const (
	// A lease lasts this long without renewal: what a key costs whose loader's process dies.
	leaseHold = 3 * time.Second

	pollMin = 5 * time.Millisecond
	pollMax = 50 * time.Millisecond
)

// run brings calls to their ends.
func (c *Cache[K, V]) run(calls []*call[K, V], bulk bool) {
	begun := c.beginAll(calls, bulk)
	defer c.ended(begun)
	switch {
	case len(begun) == 0:
	case c.shared == nil:
		c.loadAll(&begun[0].ctx, begun, bulk)
	default:
		c.fetch(begun, bulk)
	}
}

func (c *Cache[K, V]) beginAll(calls []*call[K, V], bulk bool) (begun []*call[K, V]) {
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
	return begun
}

// runOne is run for a flight of its own.
func (c *Cache[K, V]) runOne(cl *call[K, V]) {
	calls := [...]*call[K, V]{cl}
	defer c.ended(calls[:])
	switch err := c.begin(cl, true); {
	case err != nil:
		c.abort(cl, err)
	case c.shared == nil:
		c.loadOne(cl)
	default:
		c.fetch(calls[:], false)
	}
}

// ended ends what did not end by itself: a panic in the codec or a function of Options, or a load that ended its goroutine.
func (c *Cache[K, V]) ended(calls []*call[K, V]) {
	err := errGoexit
	if p := recover(); p != nil {
		err = &PanicError{Value: p, Stack: debug.Stack()}
	}
	for _, cl := range calls {
		c.finish(cl, outcome[V]{err: err}, nil)
	}
}

// fetch asks the shared tier, and loads what it does not have.
func (c *Cache[K, V]) fetch(calls []*call[K, V], bulk bool) {
	ctx, done := c.together(calls)
	defer done()
	var load []*call[K, V]
	lease, ask := false, calls
	for pause := pollMin; len(ask) > 0; lease = true {
		var may []*call[K, V]
		for _, cl := range ask {
			if c.shared.pending.has(cl.name) { // perhaps since it was asked last
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
			var let func()
			load, let = c.underLoss(load, ask)
			defer let()
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
					c.abort(cl, causeOf(ctx))
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
	first := &calls[0].ctx
	if len(calls) == 1 {
		return first, func() {}
	}
	l := &loading{cache: c, names: make(map[string]bool, len(calls)), outer: first.loading.outer}
	for _, cl := range calls {
		l.names[cl.name] = true
	}
	ctx, cancel := context.WithCancelCause(context.WithValue(first.values, loadingKey{}, l))
	ctx, stop := context.WithDeadlineCause(ctx, first.deadline, c.loadTimeout)
	var left atomic.Int64
	left.Store(int64(len(calls)))
	stops := make([]func() bool, len(calls))
	for i, cl := range calls {
		stops[i] = context.AfterFunc(&cl.ctx, func() {
			if left.Add(-1) == 0 {
				cancel(cl.ctx.why())
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

// causeOf is what ended a load's context, or one for several.
func causeOf(ctx context.Context) error {
	if c, ok := ctx.(*loadContext); ok {
		return c.why()
	}
	return context.Cause(ctx)
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
		if b := cl.before.Load(); b == nil || c.clock.now() >= b.dead {
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
	b := cl.before.Load()
	if cl.early && b != nil && b.rest().id == r.ID {
		return false // it is to be replaced
	}
	e := c.entryOf(cl, r)
	if e == nil || b != nil && b.rest().id == "" && e.loaded < b.loaded { // ours is newer; the remote was away when we got it
		return false
	}
	out := outcome[V]{entry: e, from: fromRemote}
	if b != nil && b.rest().id == e.more.id {
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
	e := c.newEntry(cl)
	b := cl.before.Load()
	same := b != nil && b.rest().id == r.ID
	if same {
		e.value, e.more = b.value, &more{id: r.ID, birth: cl.known, heard: b.more.heard, token: b.more.token, marks: b.more.marks}
		e.tagged = b.tagged
		e.loaded, e.early, e.fresh, e.revalidate, e.dead = b.loaded, b.early, b.fresh, b.revalidate, b.dead
	} else if err := c.decode(e, r); err != nil {
		c.counters.undecodable.Add(1)
		c.options.Logger.Debug("cache: a record cannot be decoded and will be replaced", "cache", c.name, "error", err)
		return nil
	} else {
		e.more.birth = cl.known
	}
	if r.Stamp > e.more.heard || c.shared.pending.hasTag(r.Tags) { // one of its tags was invalidated
		if same {
			cl.before.Store(nil)
		}
		return nil
	}
	return e
}

// decode fills an entry from a record.
func (c *Cache[K, V]) decode(e *entry[V], r Record) error {
	env, err := openEnvelope(r.Data, c.schema)
	if err != nil {
		return err
	}
	data, err := unpack(env.value, env.compressed, c.options.MaxValueSize)
	if err != nil {
		return err
	}
	if err := c.options.Codec.Unmarshal(data, &e.value); err != nil {
		return err
	}
	e.more = &more{id: r.ID, heard: env.heard, token: positions(env.token), marks: c.stamps.marks(r.Tags)}
	e.tagged = e.more.marks != nil
	e.dead = c.clock.now() + int64(min(r.Left, env.kept))
	e.loaded = e.dead - int64(env.kept)
	e.fresh = e.loaded + int64(env.fresh)
	e.early = c.earlyFrom(e.loaded, e.fresh, env.took)
	e.revalidate = min(e.fresh+int64(c.options.StaleWhileRevalidate), e.dead)
	return nil
}

func (c *Cache[K, V]) newEntry(cl *call[K, V]) *entry[V] {
	return &entry[V]{slot: cl.slot, gen: cl.gen.Load(), since: cl.since, epoch: cl.link.epoch}
}

// underLoss is what becomes of calls for which the shared tier cannot be asked: some end with what memory has, the others are
// added to load. The returned function must be called when those are over.
func (c *Cache[K, V]) underLoss(load, calls []*call[K, V]) ([]*call[K, V], func()) {
	places := int64(0)
	for _, cl := range calls {
		b := c.spareable(cl)
		switch {
		case c.unverified(cl):
		case b == nil:
			load = append(load, cl)
		case c.lossLoads.Add(1) <= maxLossLoads:
			places++
			load = append(load, cl)
		default:
			c.lossLoads.Add(-1)
			c.counters.unverified.Add(1)
			c.finish(cl, outcome[V]{entry: b, err: b.err(), stale: true}, nil)
		}
	}
	return load, func() { c.lossLoads.Add(-places) }
}

// spareable is what memory has for a call, if it may be served if need be.
func (c *Cache[K, V]) spareable(cl *call[K, V]) *entry[V] {
	b := cl.before.Load()
	if b == nil || cl.need.ahead() || b.nameless() || c.clock.now() >= b.dead {
		return nil
	}
	return b
}

// unverified ends a call with what memory has, where the shared tier cannot be asked and the connection was lost so lately
// that it may be trusted without.
func (c *Cache[K, V]) unverified(cl *call[K, V]) bool {
	b, now := cl.before.Load(), c.clock.now()
	if b == nil || cl.early || cl.need.ahead() || b.nameless() || now-cl.link.lostAt > int64(c.options.DisconnectedTTL) || now >= b.revalidate {
		return false
	}
	c.finish(cl, outcome[V]{entry: b, err: b.err(), stale: now >= b.fresh}, nil)
	return true
}
