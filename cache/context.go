package cache

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

type freshKey struct{}

// freshUsed spares the hit path a look through the context where nobody ever asks for Fresh.
var freshUsed atomic.Bool

// Fresh returns a context for reads that must not be answered from this process's memory: the shared tier or the origin is
// asked, by a load that began after the call. Every invalidation that had returned anywhere before is seen, not only those
// heard of. Without a Remote it loads.
func Fresh(ctx context.Context) context.Context {
	freshUsed.Store(true)
	return context.WithValue(ctx, freshKey{}, true)
}

func wantsFresh(ctx context.Context) bool {
	return freshUsed.Load() && ctx.Value(freshKey{}) != nil
}

// loading is the chain of loads that a context is inside of.
type loading struct {
	cache any
	name  string
	names map[string]bool // instead of name, of a load of several
	outer *loading
}

type loadingKey struct{}

// inside returns what a context has to have for the load of a key by cache.
func inside(ctx context.Context, cache any, name string) loading {
	outer, _ := ctx.Value(loadingKey{}).(*loading)
	return loading{cache: cache, name: name, outer: outer}
}

// reentrant says whether ctx is inside of a load of name by cache.
func reentrant(ctx context.Context, cache any, name string) bool {
	l, _ := ctx.Value(loadingKey{}).(*loading)
	for ; l != nil; l = l.outer {
		if l.cache == cache && (l.names[name] || l.names == nil && l.name == name) {
			return true
		}
	}
	return false
}

// loadContext is the context of a load: it has the values of the first caller's and an end of its own. One made of the context
// package's parts costs a dozen allocations, which is most of a miss.
type loadContext struct {
	values   context.Context // without the caller's end
	loading  loading
	deadline time.Time
	timer    *time.Timer
	done     chan struct{}

	mu    sync.Mutex
	err   error
	cause error
	after map[*func()]struct{}
}

// start begins the context. When limit is over it ends with overdue.
func (c *loadContext) start(ctx context.Context, l loading, limit time.Duration, overdue error) {
	c.values, c.loading, c.done = context.WithoutCancel(ctx), l, make(chan struct{})
	c.deadline = time.Now().Add(limit)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timer = time.AfterFunc(limit, func() { c.end(context.DeadlineExceeded, overdue) })
}

func (c *loadContext) Deadline() (time.Time, bool) { return c.deadline, true }
func (c *loadContext) Done() <-chan struct{}       { return c.done }

func (c *loadContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *loadContext) Value(key any) any {
	if key == (loadingKey{}) {
		return &c.loading
	}
	return c.values.Value(key)
}

// why is what ended the context; nil if nothing did.
func (c *loadContext) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// cancel ends the context.
func (c *loadContext) cancel(cause error) { c.end(context.Canceled, cause) }

func (c *loadContext) end(err, cause error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err, c.cause = err, cause
	after := c.after
	c.after = nil
	c.timer.Stop()
	close(c.done)
	c.mu.Unlock()
	for f := range after {
		go (*f)()
	}
}

// AfterFunc runs f when the context ends. The context package looks for it, and spares a goroutine for each context that is
// made of this one.
func (c *loadContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	if c.after == nil {
		c.after = make(map[*func()]struct{})
	}
	c.after[&f] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, waits := c.after[&f]
		delete(c.after, &f)
		return waits
	}
}
