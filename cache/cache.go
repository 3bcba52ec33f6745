package cache

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
)

// Cache is a read-through cache of values V by keys K: what it does not have it loads. It is safe for concurrent use. The
// values are shared between all readers and must not be changed, unless Options.Clone makes copies.
type Cache[K comparable, V any] struct {
	name        string
	load        func(context.Context, K) (V, error)
	options     Options[K, V]
	schema      uint64
	clock       *clock
	loadTimeout error
	hardTimeout error

	memory   memory[K, V]
	fences   *fences
	stamps   *stamps
	shards   [64]shard[K, V]
	tokens   tokens
	shared   *shared // nil without a Remote
	counters counters

	revalidating atomic.Int64
	lossLoads    atomic.Int64
	closed       atomic.Bool
	cancel       context.CancelFunc
	wg           sync.WaitGroup
}

const (
	// maxRevalidating bounds the loads that nobody waits for; beyond it a stale value stays stale a little longer.
	maxRevalidating = 64
	// maxLossLoads bounds the loads of keys that memory still has, while the remote cannot be asked; beyond it the value is
	// served unverified. The origin would have to stand up to the whole of what the remote did otherwise.
	maxLossLoads = 32
)

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
	c := &Cache[K, V]{
		name: name, load: load, options: o,
		schema: schemaOf(o.Schema, reflect.TypeFor[V]()),
		fences: newFences(o.MaxEntries),
		stamps: newStamps(o.Meta != nil),
		loadTimeout: fmt.Errorf("cache %s: the load took longer than Options.LoadTimeout = %v: %w",
			name, o.LoadTimeout, context.DeadlineExceeded),
		hardTimeout: fmt.Errorf("cache %s: no value within Options.HardTimeout = %v: %w",
			name, o.HardTimeout, context.DeadlineExceeded),
	}
	m, err := newMemory[K, V](o.MaxEntries, &c.counters.evictions)
	if err != nil {
		return nil, fmt.Errorf("cache: Options.MaxEntries = %d: %w", o.MaxEntries, err)
	}
	c.memory = m
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
		s.demand = func(token string) { c.tokens.addToEvery(token, c.clock.now()) }
		s.stampTTL = c.stampTTL(c.kept(o.TTL))
		c.shared = s
		c.wg.Go(s.listen)
	}
	return c, nil
}

// kept is how long a value is kept that is fresh for ttl.
func (c *Cache[K, V]) kept(ttl time.Duration) time.Duration {
	return ttl + max(c.options.StaleWhileRevalidate, c.options.StaleIfError)
}

// stampTTL is how long the stamp of a tag must stay for the sake of a value that is kept so long. A record whose stamp has gone
// is a miss, so this is not for correctness.
func (c *Cache[K, V]) stampTTL(kept time.Duration) time.Duration {
	return kept + c.options.LoadTimeout + time.Minute
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
			cl.ctx.cancel(ErrClosed)
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
