package cache

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/fairlead/fairlead/pool/causal"
)

// maxRunning is how many loads of one key run at a time: one that everybody joins, and one that an invalidation has
// detached. The next waits, and may be joined by those who come meanwhile, since it has not begun.
const maxRunning = 2

const (
	backoffMin = 50 * time.Millisecond
	backoffMax = 5 * time.Second
)

// shard is the flights of a part of the keys. DoChan and Forget are called only under mu, so that group and keys agree.
type shard[K comparable, V any] struct {
	mu    sync.Mutex
	group singleflight.Group
	keys  map[string]*flights[K, V]
	live  map[*call[K, V]]struct{} // what Close cancels
	ended bool
}

// flights is what goes on about one key.
type flights[K comparable, V any] struct {
	current *call[K, V]   // who comes joins this one
	running int           // begun and not over
	over    chan struct{} // closed when one is, made by who waits for it

	failed int   // loads in a row
	until  int64 // when the next may be tried
	err    error // of the last
}

// need is what a reader demands of the value it gets.
type need struct {
	fresh bool   // of a load that begins after the reader came
	bound string // of a load that began when the clock had come this far
	blind bool   // of the origin: what the reader wrote may not have reached the remote
	token string // what the reader has written, where it is ahead of what this process heard
}

// ahead says whether memory must be passed by.
func (n need) ahead() bool { return n.fresh || n.blind || n.bound != "" }

func (n *need) add(o need) {
	n.fresh = n.fresh || o.fresh
	n.blind = n.blind || o.blind
	n.bound = max(n.bound, o.bound)
	n.token = merged(n.token, o.token)
}

// own adds what the reader has written, where that is needed.
func (n *need) own(ctx context.Context, scope *causal.Scope) {
	if n.blind || n.bound != "" {
		n.token = without(written(ctx, scope), isClock)
	}
}

// call is one fetch of one key.
type call[K comparable, V any] struct {
	key   K
	name  string
	shard *shard[K, V]
	state *flights[K, V]
	slot  *fence

	ctx loadContext

	// Under the shard's lock.
	refs  int
	begun bool
	need  need
	over  bool
	loads bool    // the origin is asked, or is about to be
	asked *string // with the demands of this token

	// Written when it begins, under the lock, and only read then.
	gen    atomic.Uint32
	since  uint64
	link   link
	known  string                   // a reading of the clock
	heard  string                   // one up to which all was heard
	before atomic.Pointer[entry[V]] // what memory holds, if it is valid; an invalidation may take it away
	start  int64

	behind  bool // nobody waits: a revalidation
	early   bool // of a value that is fresh still
	loaned  bool // holds a lease
	lease   string
	instead string    // the record to replace
	token   string    // the lease's
	spare   *entry[V] // the remote's record, to serve if the origin fails; under the shard's lock

	out  outcome[V]    // once the context has ended with errDone
	done chan struct{} // closed then too; only of a flight that its caller runs
}

// outcome is what a Get comes to.
type outcome[V any] struct {
	entry     *entry[V] // nil only with err
	err       error
	from      tier
	stale     bool
	coalesced bool
}

// join finds the call to wait for, or makes one. The shard's lock is held.
func (c *Cache[K, V]) join(ctx context.Context, sh *shard[K, V], st *flights[K, V], key K, name string, slot *fence, n need) (cl *call[K, V], made bool) {
	if cl := st.current; cl != nil {
		switch {
		case cl.ctx.Err() != nil: // timed out; whoever waits for it has been told
		case !cl.begun:
			cl.need.add(n)
			cl.refs++
			return cl, false
		case !n.fresh && !n.blind && n.bound <= cl.known && cl.since >= c.stamps.floor.Load():
			cl.refs++
			return cl, false
		}
		sh.detach(name, st)
	}
	cl = &call[K, V]{key: key, name: name, shard: sh, state: st, slot: slot, need: n, refs: 1}
	cl.ctx.start(ctx, inside(ctx, c, name), c.options.LoadTimeout, c.loadTimeout)
	st.current = cl
	sh.live[cl] = struct{}{}
	c.wg.Add(1)
	return cl, true
}

// detach lets nobody join the current call any more. The shard's lock is held.
func (sh *shard[K, V]) detach(name string, st *flights[K, V]) {
	st.current = nil
	sh.group.Forget(name)
}

// await returns what a call comes to, or leaves it when ctx ends; the last to leave ends the load. Who leaves because our own
// time-outs since it came are over lets the load go on, for those who come next.
func (c *Cache[K, V]) await(ctx context.Context, w waiter[K, V], came int64) (out outcome[V]) {
	cl := w.call
	var soft, hard <-chan time.Time
	if c.options.SoftTimeout > 0 || c.options.HardTimeout > 0 {
		var stop func()
		soft, hard, stop = timeouts(c.options.SoftTimeout, c.options.HardTimeout, time.Duration(c.clock.now()-came))
		defer stop()
	}
	for {
		var err error
		select {
		case r := <-w.answer:
			out = r.Val.(outcome[V])
			out.coalesced = !w.made
			return out
		case <-cl.ctx.done:
			if err = cl.ctx.why(); err == errDone { // the answer is under way, but for a load that ended its goroutine
				out = cl.out
				out.coalesced = !w.made
				return out
			}
		case <-soft:
			cl.shard.mu.Lock()
			spare := c.spare(cl)
			cl.shard.mu.Unlock()
			if spare == nil {
				soft = nil
				continue
			}
			return outcome[V]{entry: spare, err: spare.err(), stale: true, coalesced: !w.made}
		case <-hard:
			return outcome[V]{err: c.hardTimeout}
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		return c.leave(cl, err)
	}
}

// timeouts returns channels that answer when so long has passed since a reader came, waited ago; nil for 0.
func timeouts(soft, hard, waited time.Duration) (_, _ <-chan time.Time, stop func()) {
	var timers [2]*time.Timer
	var ends [2]<-chan time.Time
	for i, d := range [...]time.Duration{soft, hard} {
		if d > 0 {
			timers[i] = time.NewTimer(d - waited)
			ends[i] = timers[i].C
		}
	}
	return ends[0], ends[1], func() {
		for _, t := range timers {
			if t != nil {
				t.Stop()
			}
		}
	}
}

// leave gives up a place in a flight.
func (c *Cache[K, V]) leave(cl *call[K, V], err error) outcome[V] {
	sh := cl.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	out := c.overdue(cl, err)
	if cl.refs--; cl.refs == 0 && !cl.over {
		cl.ctx.cancel(errAbandoned)
		if cl.state.current == cl {
			sh.detach(cl.name, cl.state)
		}
	}
	return out
}

// overdue is what those get who wait for a call that ends with cause. If that is that its time is up, an origin that hangs
// is one that fails: a stale value is served, and the next to come do not wait for it again at once. The shard's lock is held.
func (c *Cache[K, V]) overdue(cl *call[K, V], cause error) outcome[V] {
	if cause != c.loadTimeout {
		return outcome[V]{err: cause}
	}
	spare := c.spare(cl)
	if spare == nil {
		return outcome[V]{err: cause}
	}
	if cl.state.current == cl {
		c.failing(cl, cause)
		cl.shard.detach(cl.name, cl.state)
		if cl.spare != nil {
			c.memory.set(cl.key, cl.spare)
		}
	}
	return outcome[V]{entry: spare, err: spare.err(), stale: true}
}

// spare is what a call may be answered with whose load failed, or nil. The shard's lock is held.
func (c *Cache[K, V]) spare(cl *call[K, V]) *entry[V] {
	e := cl.spare
	if e == nil {
		e = cl.before.Load()
	}
	if e == nil && !cl.begun {
		e = c.memory.get(cl.key)
	}
	if e == nil || !c.valid(e) || e.nameless() || c.clock.now() >= e.dead || cl.need.ahead() {
		return nil
	}
	return e
}

// begin waits for the call's turn, if it may, and notes what has been heard before the first byte is asked for.
func (c *Cache[K, V]) begin(cl *call[K, V], wait bool) error {
	cl.shard.mu.Lock()
	defer cl.shard.mu.Unlock()
	st := cl.state
	for st.running >= maxRunning {
		if !wait {
			return errBusy
		}
		if st.over == nil {
			st.over = make(chan struct{})
		}
		over := st.over
		cl.shard.mu.Unlock()
		select {
		case <-over:
		case <-cl.ctx.done:
		}
		cl.shard.mu.Lock()
		if cl.ctx.Err() != nil {
			return cl.ctx.why()
		}
	}
	st.running++
	cl.begun = true
	cl.start = c.clock.now()
	cl.since = c.stamps.last.Load()
	cl.gen.Store(cl.slot.load())
	if s := c.shared; s != nil {
		cl.link = *s.link.Load()
		cl.known = max(*s.known.Load(), cl.need.bound)
		cl.heard = s.heard(&cl.link)
	}
	if e := c.memory.get(cl.key); e != nil && c.valid(e) {
		cl.before.Store(e)
	}
	return nil
}

// finish hands out what a call came to and keeps it, unless the call was detached or its value invalidated meanwhile.
func (c *Cache[K, V]) finish(cl *call[K, V], out outcome[V], keep *entry[V]) {
	sh, st := cl.shard, cl.state
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if cl.over {
		return
	}
	cl.over, cl.out = true, out
	delete(sh.live, cl)
	defer c.wg.Done()
	if cl.begun {
		st.running--
		if st.over != nil {
			close(st.over)
			st.over = nil
		}
	}
	if st.current == cl {
		sh.detach(cl.name, st)
		if keep != nil && c.valid(keep) {
			c.memory.set(cl.key, keep)
		}
	}
	sh.tidy(cl.name, st, c.clock.now())
	cl.ctx.cancel(errDone)
	if cl.done != nil {
		close(cl.done)
	}
}

// succeeded forgets the failures before a load that did not fail.
func (c *Cache[K, V]) succeeded(cl *call[K, V]) {
	cl.shard.mu.Lock()
	defer cl.shard.mu.Unlock()
	if st := cl.state; st.current == cl {
		st.failed, st.err, st.until = 0, nil, 0
	}
}

// failing notes a failed load, for those that come next. The shard's lock is held.
func (c *Cache[K, V]) failing(cl *call[K, V], err error) {
	st := cl.state
	if st.current != cl {
		return
	}
	pause := min(backoffMin<<min(st.failed, 10), backoffMax)
	st.failed++
	st.err = err
	st.until = c.clock.now() + int64(pause) + rand.Int64N(int64(pause)/4)
}

// tidy drops what is known of a key once that is nothing. The shard's lock is held.
func (sh *shard[K, V]) tidy(name string, st *flights[K, V], now int64) {
	if st.current == nil && st.running == 0 && st.failed == 0 && sh.keys[name] == st {
		delete(sh.keys, name)
	}
	if len(sh.keys) < 4096 {
		return
	}
	for name, st := range sh.keys { // an origin that fails for ever new keys
		if st.current == nil && st.running == 0 && st.until < now {
			delete(sh.keys, name)
		}
	}
}
