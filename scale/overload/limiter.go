package overload

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Limiter limits how many requests run at a time. It is safe for concurrent use and has nothing to close.
type Limiter struct {
	name   string
	opts   Options
	epoch  time.Time
	memory *memory
	counts counts
	warned atomic.Int64 // ns since epoch of the last warning, plus 1

	mu      sync.Mutex
	limit   limit
	running int
	queue   queue
	sweeper *time.Timer // runs while somebody waits
	sweepAt float64

	// The mean time in the handler and its deviation, to know the latest start for a deadline.
	service, deviation float64
}

// New returns a limiter. The name, not empty, is an attribute of its metrics.
func New(name string, options Options) (*Limiter, error) {
	err := options.validate()
	if name == "" {
		err = errors.Join(errors.New("overload: name is empty: must name the limiter"), err)
	}
	if err != nil {
		return nil, err
	}
	o := options.withDefaults()
	l := &Limiter{
		name:    name,
		opts:    o,
		epoch:   time.Now(),
		memory:  newMemory(o.MaxMemory),
		queue:   newQueue(o.StandingAfter.Seconds()),
		sweepAt: math.Inf(1),
	}
	if o.Off {
		l.limit = newOff(o)
	} else {
		l.limit = newKnee(o)
	}
	return l, nil
}

// permit is a context that carries what Release gives back.
type permit struct {
	context.Context
	l                *Limiter
	arrived, started float64
	untold           bool // no deadline says how long the client waits
	returned         atomic.Bool
	unwatch          func() bool // stops waiting for the client to leave
}

type permitKey struct{}

// Value returns the permit itself, or what the context underneath has.
func (p *permit) Value(key any) any {
	if key == (permitKey{}) {
		return p
	}
	return p.Context.Value(key)
}

// Acquire returns a context that holds a permit, for Release; where necessary it waits for one, MaxWait at most. ctx's
// priority (WithPriority), deadline and end count; key is whose fair share it comes from, and "" a key like others.
//
// The error wraps ErrRefused when the caller should be turned away; a context that ends while it waits gives its own error.
// The context that is returned with an error is ctx.
func (l *Limiter) Acquire(ctx context.Context, key string) (context.Context, error) {
	p, err := l.acquire(ctx, PriorityFrom(ctx), key, nil)
	if err != nil {
		return ctx, err
	}
	return p, nil
}

// Release gives back the permit that ctx holds, the innermost of several. Call it when the work is done (defer it), or before
// that where what remains has a guard of its own: work in an offload lane, a wait for something that is not scarce. A second
// call does nothing, nor one for a context without a permit.
//
// If ctx has ended by then, the work counts as late: done for a client that had gone.
func Release(ctx context.Context) {
	if p, ok := ctx.Value(permitKey{}).(*permit); ok {
		p.l.release(p)
	}
}

// now is the time since New, and how far the wall clock is ahead of that, in seconds.
func (l *Limiter) now() (now, ahead float64) {
	t := time.Now()
	since := t.Sub(l.epoch)
	return since.Seconds(), float64(t.UnixNano()-int64(since)) / 1e9
}

func (l *Limiter) acquire(ctx context.Context, priority Priority, key string, r *http.Request) (*permit, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := &permit{Context: ctx, l: l, untold: true}
	if priority == Sheddable && !l.opts.Off && l.memory.runsOut() {
		l.mu.Lock()
		l.limit.refused()
		l.mu.Unlock()
		return nil, l.turnAway(&refusal{limiter: l.name, reason: noMemory, priority: priority})
	}
	deadline, bounded := ctx.Deadline()

	l.mu.Lock()
	now, ahead := l.now()
	p.arrived = now
	at := math.Inf(1)
	if bounded {
		left := deadline.Sub(l.epoch).Seconds() - now
		at = now + left
		if left < l.opts.MaxPatience.Seconds() {
			p.untold = false
			l.limit.arrived(left)
		}
	}
	l.touch(now, ahead)
	if l.queue.waiting == 0 && l.running < l.limit.max() {
		l.begin(p, now)
		watch := p.untold && l.limit.watching(now)
		l.mu.Unlock()
		p.watch(watch)
		l.counts.admitted.Add(1)
		return p, nil
	}
	if r != nil {
		l.mu.Unlock() // for the application's function
		key = l.opts.Key(r)
		l.mu.Lock()
		now, ahead = l.now()
		l.touch(now, ahead)
	}
	w := &waiter{arrived: p.arrived, since: now, deadline: at, permit: p, decided: make(chan struct{})}
	refused := l.enqueue(now, w, priority, key)
	l.mu.Unlock()
	if refused != nil {
		return nil, l.turnAway(refused)
	}
	return l.await(ctx, w)
}

// await waits for the decision or the end of ctx.
func (l *Limiter) await(ctx context.Context, w *waiter) (*permit, error) {
	select {
	case <-w.decided:
	case <-ctx.Done():
		l.mu.Lock()
		now, ahead := l.now()
		l.touch(now, ahead)
		if w.flow != nil { // nobody has decided
			l.queue.remove(w)
			l.limit.refused()
			if w.permit.untold {
				l.limit.departed(now, now-w.arrived)
			}
			l.pump(now)
			l.mu.Unlock()
			l.counts.abandoned.Add(1)
			return nil, ctx.Err()
		}
		l.mu.Unlock()
		<-w.decided
	}
	if w.refusal != nil {
		return nil, l.turnAway(w.refusal)
	}
	if err := ctx.Err(); err != nil { // work that nobody waits for is not begun
		l.withdraw(w.permit)
		l.counts.abandoned.Add(1)
		return nil, err
	}
	l.counts.admitted.Add(1)
	l.counts.wait.Record(duration(w.permit.started - w.since))
	if w.permit.untold {
		l.mu.Lock()
		watch := l.limit.watching(w.permit.started)
		l.mu.Unlock()
		w.permit.watch(watch)
	}
	return w.permit, nil
}

// enqueue puts a request in the queue, at the cost of another if it is full.
func (l *Limiter) enqueue(now float64, w *waiter, priority Priority, key string) *refusal {
	if l.queue.waiting >= l.opts.MaxQueue {
		victim := l.queue.victim(priority, key)
		if victim == nil {
			l.limit.refused()
			return &refusal{limiter: l.name, reason: full, priority: priority}
		}
		l.queue.remove(victim)
		l.refuse(now, victim, full)
	}
	l.queue.push(now, w, priority, key)
	l.pump(now)
	if w.flow != nil {
		l.sweepBy(now, l.expiry(now, w))
	}
	return nil
}

// touch tells the limit what has held until now. It comes before every change.
func (l *Limiter) touch(now, ahead float64) {
	l.limit.advance(now, ahead, l.running, l.queue.waiting > 0 || l.running >= l.limit.max())
}

// pump starts what may start. It comes after every change.
func (l *Limiter) pump(now float64) {
	for l.queue.waiting > 0 && l.running < l.limit.max() {
		w := l.queue.pop(now)
		if now >= l.expiry(now, w) {
			w.flow = nil
			l.refuse(now, w, l.reason(now, w))
			continue
		}
		l.queue.served(now, w)
		w.flow = nil
		l.begin(w.permit, now)
		close(w.decided)
	}
	if l.queue.waiting == 0 {
		l.queue.reset()
	}
}

func (l *Limiter) begin(p *permit, now float64) {
	l.running++
	p.started = now
}

// expiry is when a waiter is refused: when it has waited too long, or could not be done by the time its client leaves.
func (l *Limiter) expiry(now float64, w *waiter) float64 {
	patience := l.limit.patience()
	wait := math.Min(l.opts.MaxWait.Seconds(), patience/4)
	if l.queue.stands(now, w.flow) {
		wait = math.Min(wait, l.opts.StandingWait.Seconds())
	}
	return math.Min(w.since+wait, l.latestStart(w))
}

func (l *Limiter) latestStart(w *waiter) float64 {
	leaves := w.deadline
	if w.permit.untold {
		leaves = math.Min(leaves, w.arrived+l.limit.patience())
	}
	return leaves - l.service - 2*l.deviation - 0.002
}

func (l *Limiter) reason(now float64, w *waiter) reason {
	if now >= l.latestStart(w) {
		return tooLate
	}
	return waited
}

func (l *Limiter) refuse(now float64, w *waiter, why reason) {
	l.limit.refused()
	w.refusal = &refusal{limiter: l.name, reason: why, priority: w.class.priority, waited: duration(now - w.since)}
	close(w.decided)
}

// sweepPeriod is how often, at least and at most, the queue is looked through for those that have waited too long: a line
// that begins to stand shortens the time of all in it.
const (
	sweepPeriod    = 0.005
	minSweepPeriod = 0.001
)

// sweepBy sees to a sweep at the given time or soon after now.
func (l *Limiter) sweepBy(now, at float64) {
	if l.queue.waiting == 0 {
		return
	}
	at = math.Max(math.Min(at, now+sweepPeriod), now+minSweepPeriod)
	if at >= l.sweepAt {
		return
	}
	l.sweepAt = at
	// A microsecond more, so that rounding never makes it early.
	wait := duration(at-now) + time.Microsecond
	if l.sweeper == nil {
		l.sweeper = time.AfterFunc(wait, l.sweep)
	} else {
		l.sweeper.Reset(wait)
	}
}

func (l *Limiter) sweep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweepAt = math.Inf(1)
	now, ahead := l.now()
	l.touch(now, ahead)
	next := l.queue.sweep(now,
		func(w *waiter) float64 { return l.expiry(now, w) },
		func(w *waiter) { l.refuse(now, w, l.reason(now, w)) })
	l.pump(now)
	l.sweepBy(now, next)
}

// release ends the measured time of a permit.
func (l *Limiter) release(p *permit) {
	if p.returned.Swap(true) {
		return
	}
	if p.unwatch != nil {
		p.unwatch()
	}
	late := p.Err() != nil
	l.mu.Lock()
	now, ahead := l.now()
	l.touch(now, ahead)
	l.running--
	took := now - p.started
	l.service += 0.05 * (took - l.service)
	l.deviation += 0.05 * (math.Abs(took-l.service) - l.deviation)
	l.limit.done(now, took, late)
	l.pump(now)
	l.mu.Unlock()
	if late {
		l.counts.late.Add(1)
	}
}

// withdraw gives a permit back as if the request had never been, and says whether it was there.
func (l *Limiter) withdraw(p *permit) bool {
	if p.returned.Swap(true) {
		return false
	}
	if p.unwatch != nil {
		p.unwatch()
	}
	l.mu.Lock()
	now, ahead := l.now()
	l.touch(now, ahead)
	l.running--
	l.limit.withdrawn(now, p.started)
	l.pump(now)
	l.mu.Unlock()
	return true
}

// watch has the limit told when the client leaves. It costs something, so it is done only while that is worth knowing.
func (p *permit) watch(yes bool) {
	if !yes || p.Done() == nil {
		return
	}
	p.unwatch = context.AfterFunc(p.Context, func() {
		l := p.l
		l.mu.Lock()
		defer l.mu.Unlock()
		now, _ := l.now()
		l.limit.departed(now, now-p.arrived)
	})
}

const warnEvery = 10 * time.Second

// turnAway counts a refusal and says so now and then.
func (l *Limiter) turnAway(e *refusal) error {
	l.counts.refused[e.priority.index()].Add(1)
	l.counts.reasons[e.reason].Add(1)
	now := int64(time.Since(l.epoch)) + 1
	if last := l.warned.Load(); (last == 0 || now-last >= int64(warnEvery)) && l.warned.CompareAndSwap(last, now) {
		s := l.Stats()
		l.opts.Logger.Warn("overload: refusing requests", slog.String("limiter", l.name), slog.String("reason", e.reason.String()),
			slog.Int("limit", s.Limit), slog.Int("running", s.InFlight), slog.Int("waiting", s.Waiting),
			slog.Uint64("refused", s.RefusedSheddable+s.RefusedDefault+s.RefusedCritical))
	}
	return e
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
