package cache

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/fairlead/fairlead/pool/causal"
)

// Cache is a read-through cache of values V by keys K: what it does not have it loads. It is safe for concurrent use. The
// values are shared between all readers and must not be changed.
type Cache[K comparable, V any] struct {
	name        string
	load        func(context.Context, K) (V, error)
	options     Options[K, V]
	schema      uint64
	clock       *clock
	loadTimeout error

	memory   memory[K, V]
	fences   *fences
	shards   [64]shard[K, V]
	tokens   tokens
	shared   *shared // nil without a Remote
	counters counters

	revalidating atomic.Int64
	closed       atomic.Bool
	cancel       context.CancelFunc
	wg           sync.WaitGroup
}

// maxRevalidating bounds the loads that nobody waits for; beyond it a stale value stays stale a little longer.
const maxRevalidating = 64

// New returns a cache that loads what it does not have with load. name stands for it in telemetry and, with a Remote, in
// the names of what is stored there: the processes that share values and invalidations give it the same. All wrong options
// are reported at once. New does not wait for the Remote, which may be away.
//
// load runs on a context of its own: it has the values of the first caller's, ends when nobody waits for it any more and
// after Options.LoadTimeout, and has a causal scope that starts where the key was last invalidated, so that reads in it
// through this module's pool do not see what was before. It must not return a value that somebody still changes.
func New[K comparable, V any](name string, load func(context.Context, K) (V, error), o Options[K, V]) (*Cache[K, V], error) {
	if err := o.check(name, load); err != nil {
		return nil, err
	}
	o.fill()
	m, err := newMemory[K, V](o.MaxEntries)
	if err != nil {
		return nil, fmt.Errorf("cache: Options.MaxEntries = %d: %w", o.MaxEntries, err)
	}
	c := &Cache[K, V]{
		name: name, load: load, options: o, memory: m,
		schema: schemaOf(o.Schema, reflect.TypeFor[V]()),
		fences: newFences(o.MaxEntries),
		loadTimeout: fmt.Errorf("cache %s: the load took longer than Options.LoadTimeout = %v: %w",
			name, o.LoadTimeout, context.DeadlineExceeded),
	}
	for i := range c.shards {
		c.shards[i].keys = make(map[string]*flights[K, V])
		c.shards[i].live = make(map[*call[K, V]]struct{})
	}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	c.clock = &clock{base: time.Now(), ctx: ctx}
	if o.Remote != nil {
		s := newShared(o.Remote, name, o.RemoteTimeout)
		s.clock, s.log, s.counters, s.ctx, s.wg, s.evict = c.clock, o.Logger, &c.counters, ctx, &c.wg, c.evict
		c.shared = s
		c.wg.Go(s.listen)
	}
	return c, nil
}

// Close ends all loads and waits a second for them. Whoever still waits for one gets ErrClosed, and so does every later
// call. It is safe to call more than once.
func (c *Cache[K, V]) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	c.cancel()
	for i := range c.shards {
		sh := &c.shards[i]
		sh.mu.Lock()
		sh.ended = true
		for cl := range sh.live {
			cl.cancel(ErrClosed)
		}
		sh.mu.Unlock()
	}
	if c.shared != nil {
		c.shared.pending.mu.Lock()
		//lint:ignore SA2001 whoever had it earlier was starting a sender, which counts in wg by now
		c.shared.pending.mu.Unlock()
	}
	done := make(chan struct{})
	go func() {
		c.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
	return nil
}

// Get returns the value of key: from memory, from the shared tier or from a load, which all who ask meanwhile share. It
// waits no longer than ctx. If the load fails, a value no staler than Options.StaleIfError is returned instead of its error,
// and for a moment, longer each time, its error is returned without another load. A panic in the load is a *[PanicError].
func (c *Cache[K, V]) Get(ctx context.Context, key K) (V, error) {
	out := c.get(ctx, key)
	if out.entry == nil {
		var none V
		return none, out.err
	}
	return out.entry.value, out.err
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
	// Stale says that the value is past its TTL, served while a new one is fetched or because fetching it failed.
	Stale bool
	// Coalesced says that the value came from a load that another Get had begun.
	Coalesced bool
}

// Lookup is Get with the circumstances. They are known for a "not found" too, whose error comes with them.
func (c *Cache[K, V]) Lookup(ctx context.Context, key K) (Result[V], error) {
	out := c.get(ctx, key)
	if out.entry == nil {
		return Result[V]{}, out.err
	}
	now := c.clock.now()
	return Result[V]{
		Value: out.entry.value, Tier: tierNames[out.from],
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
	stale
	behindReader // fresh or stale, but not for a reader whose own writes are ahead of it
)

// judge says what e is good for. The need was found out before.
func (c *Cache[K, V]) judge(e *entry[V], n need, now int64) verdict {
	if !e.valid() {
		return useless
	}
	v := useless
	switch {
	case now < e.fresh:
		v = fresh
	case now < e.revalidate:
		v = stale
	}
	if s := c.shared; s != nil && v != useless {
		l := s.link.Load()
		switch {
		case e.epoch != l.epoch, !l.connected && now-e.loaded > int64(c.options.DisconnectedTTL):
			return useless
		case n.blind, n.bound > e.birth:
			return behindReader
		}
	}
	if n.fresh {
		return useless
	}
	return v
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

func (c *Cache[K, V]) get(ctx context.Context, key K) outcome[V] {
	if c.closed.Load() {
		return outcome[V]{err: ErrClosed}
	}
	scope := causal.From(ctx)
	n := c.needs(scope, ctx)
	if e := c.memory.get(key); e != nil && !e.nameless() {
		switch c.judge(e, n, c.clock.hit()) {
		case fresh:
			c.counters.hits[e.part].n.Add(1)
			if scope != nil {
				e.saw(scope)
			}
			return outcome[V]{entry: e, err: e.err}
		case stale:
			c.revalidate(ctx, key)
			return c.count(scope, outcome[V]{entry: e, err: e.err, stale: true})
		case behindReader:
			c.counters.ownWrites.Add(1)
		}
	}
	var out outcome[V]
	n.own(ctx, scope)
	for range 3 {
		var w waiter[K, V]
		if w, out = c.enter(ctx, key, n, false); w.call != nil {
			out = c.await(ctx, w.call, w.answer)
			out.coalesced = !w.made
		}
		if out.entry == nil || !out.entry.nameless() {
			return c.count(scope, out)
		}
	}
	return c.count(nil, outcome[V]{err: fmt.Errorf("cache %s: %w", c.name, errNameless)})
}

// nameless says that LoadMany found no such key: the loader has to say with which error that is reported.
func (e *entry[V]) nameless() bool { return e.absent && e.err == nil }

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
		n.hits[out.entry.part].n.Add(1)
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
		switch c.judge(e, n, now) {
		case fresh:
			return w, outcome[V]{entry: e, err: e.err}
		case stale:
			return w, outcome[V]{entry: e, err: e.err, stale: true}
		}
	}
	st := sh.keys[name]
	if st == nil {
		st = new(flights[K, V])
		sh.keys[name] = st
	} else {
		if cl := st.current; cl != nil && cl.ctx.Err() != nil && c.overdue(cl, context.Cause(cl.ctx)).entry != nil {
			e = c.memory.get(key)
		}
		if st.failed > 0 && st.current == nil && now < st.until {
			if e != nil && e.valid() && now < e.dead && !n.ahead() {
				return w, outcome[V]{entry: e, err: e.err, stale: true}
			}
			return w, outcome[V]{err: st.err}
		}
	}
	cl, made := c.join(ctx, sh, st, key, name, slot, n)
	w = waiter[K, V]{call: cl, made: made, answer: sh.group.DoChan(name, func() (any, error) {
		if !bulk {
			c.run([]*call[K, V]{cl}, false)
		}
		<-cl.done
		return cl.out, nil
	})}
	return w, outcome[V]{}
}

func (c *Cache[K, V]) shardOf(hash uint64) *shard[K, V] { return &c.shards[hash>>(64-6)] }

// revalidate begins to fetch a stale key behind the reader, unless somebody does already.
func (c *Cache[K, V]) revalidate(ctx context.Context, key K) {
	name := bounded(c.options.Key(key))
	slot, hash := c.fences.of(name)
	sh := c.shardOf(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	st := sh.keys[name]
	switch {
	case sh.ended, reentrant(ctx, c, name):
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
	cl, _ := c.join(ctx, sh, st, key, name, slot, need{})
	cl.behind = true
	sh.group.DoChan(name, func() (any, error) {
		defer c.revalidating.Add(-1)
		c.run([]*call[K, V]{cl}, false)
		return cl.out, nil
	})
}

// GetMany returns the values of keys, those that exist. What is missing is fetched at once, by one call of Options.LoadMany
// for all that nobody else is loading. If some cannot be had, the others are returned with the error.
func (c *Cache[K, V]) GetMany(ctx context.Context, keys []K) (map[K]V, error) {
	if c.closed.Load() {
		return nil, ErrClosed
	}
	scope := causal.From(ctx)
	n := c.needs(scope, ctx)
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
			found[key] = out.entry.value
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
			switch c.judge(e, n, c.clock.hit()) {
			case fresh:
				take(key, outcome[V]{entry: e})
				continue
			case stale:
				c.revalidate(ctx, key)
				take(key, outcome[V]{entry: e, stale: true})
				continue
			case behindReader:
				c.counters.ownWrites.Add(1)
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
		out := c.await(ctx, p.call, p.answer)
		out.coalesced = !p.made
		take(p.key, out)
	}
	return found, errors.Join(errs...)
}

// Invalidate says that the values of keys have changed: call it after the change is committed, with the context of the
// write. When it has returned, no Get here returns a value whose load began before, and if it returned nil no Get anywhere
// that asks the shared tier does; see the package's documentation for what else holds.
//
// It does its work even where ctx has ended. An error says that the shared tier did not confirm; it will be told again until
// it does, and meanwhile this process does not use it for these keys. The write itself is done: an application will mostly
// log the error.
func (c *Cache[K, V]) Invalidate(ctx context.Context, keys ...K) error {
	if c.closed.Load() {
		return ErrClosed
	}
	if len(keys) == 0 {
		return nil
	}
	c.counters.invalidations.Add(uint64(len(keys)))
	ctx = context.WithoutCancel(ctx)
	scope := causal.From(ctx)
	token := without(written(ctx, scope), isClock)
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = bounded(c.options.Key(key))
	}
	drop := func() {
		for i, key := range keys {
			c.evict(names[i], token)
			c.memory.remove(key)
		}
	}
	drop()
	s := c.shared
	if s == nil {
		return nil
	}
	domain := s.domain(scope)
	var failed error
	for chunk := range chunks(names, maxBatch) {
		reading, err := s.invalidate(ctx, chunk, token)
		if err != nil {
			s.queue(chunk, token)
			domain.Wrote("") // unknown: the reader's next requests ask the origin
			failed = errors.Join(failed, err)
			continue
		}
		s.pending.took(s.clock.now(), chunk, token)
		for _, name := range chunk { // loads that began since read what was there before
			c.evict(name, "")
		}
		s.remember(reading)
		domain.Wrote(reading)
	}
	if failed != nil {
		drop()
		return queued(c.name, failed)
	}
	return nil
}

// evict makes every value of a key useless whose load has begun, and every flight un-joinable.
func (c *Cache[K, V]) evict(name, token string) {
	c.tokens.add(name, token, c.clock.now())
	slot, hash := c.fences.of(name)
	sh := c.shardOf(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	slot.move()
	if st := sh.keys[name]; st != nil {
		if st.current != nil && st.current.begun {
			sh.detach(name, st)
		}
		st.failed, st.err, st.until = 0, nil, 0
		sh.tidy(name, st, c.clock.now())
	}
}

func chunks(names []string, size int) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		for len(names) > 0 {
			n := min(size, len(names))
			if !yield(names[:n]) {
				return
			}
			names = names[n:]
		}
	}
}
