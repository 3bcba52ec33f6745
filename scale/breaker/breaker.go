package breaker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// Breaker guards one dependency. It is safe for concurrent use, has no goroutine and needs no closing.
type Breaker struct {
	name  string
	opts  Options
	attrs []telemetry.Attr
	epoch time.Time // times are kept since then, by the monotonic clock

	machine    atomic.Pointer[machine] // replaced by Force, under mu
	throttling atomic.Bool             // the dependency refused something in the throttle's window

	// mu may be taken while gobreaker holds its own lock, never the other way round.
	mu      sync.Mutex
	demand  window // requests, accepts, refusals; for the throttle
	events  []event
	telling bool // somebody delivers events

	counters counters
}

// New returns a closed breaker. The name appears in errors, logs and telemetry. The error names every bad field of the
// options.
func New(name string, o Options) (*Breaker, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	return newBreaker(name, o.withDefaults(), telemetry.Attr{Key: "breaker", Value: name}), nil
}

func newBreaker(name string, o Options, attrs ...telemetry.Attr) *Breaker {
	b := &Breaker{name: name, opts: o, attrs: attrs, epoch: time.Now(), demand: newWindow(o.ThrottleWindow, 10)}
	forced := Auto
	if o.Disabled {
		forced = Closed
	}
	b.machine.Store(newMachine(b, forced))
	return b
}

// Do calls fn unless the breaker refuses, which it does with an *OpenError, and counts what came of it (see the package's
// comment). fn's results are returned as they are, a panic or runtime.Goexit in it goes on. If ctx is done already, its
// error is returned and nothing counts. While the breaker is closed, Do does not allocate.
func Do[T any](ctx context.Context, b *Breaker, fn func(context.Context) (T, error)) (T, error) {
	c, err := b.begin(ctx)
	if err != nil {
		var zero T
		return zero, err
	}
	returned := false
	defer func() {
		if !returned { // a panic or Goexit; not recovered, so that it keeps its stack
			b.end(c, panicked)
		}
	}()
	v, err := fn(ctx)
	o := b.outcome(ctx, err)
	returned = true
	b.end(c, o)
	return v, err
}

// State returns what the breaker does with calls now. The end of Options.OpenFor shows as HalfOpen.
func (b *Breaker) State() State {
	m := b.machine.Load()
	if m.isForced() {
		return m.forced
	}
	if s := m.state(); s != Open || b.now() < m.openUntil() {
		return s
	}
	m.gb.State() // lets it see that the time has come
	b.notify()
	return m.state()
}

// Force makes the breaker pass all calls (Closed), refuse all (Open) or decide for itself again (Auto, or any other
// value), starting as closed with an empty window. Forced, it does not throttle either, and goes on counting in Stats.
// Force with what is in force already does nothing.
func (b *Breaker) Force(s State) {
	if s != Closed && s != Open {
		s = Auto
	}
	b.mu.Lock()
	old := b.machine.Load()
	if old.forced != s {
		m := newMachine(b, s)
		b.machine.Store(m)
		b.changed(old.visible(), m.visible(), "forced", s)
	}
	b.mu.Unlock()
	b.notify()
}

func (b *Breaker) now() time.Duration { return time.Since(b.epoch) }

// call is one that passed.
type call struct {
	m     *machine
	gen   uint64 // of m when it began
	start time.Duration
	probe *probe // while half-open
}

// begin lets a call pass or refuses it.
func (b *Breaker) begin(ctx context.Context) (call, error) {
	if err := ctx.Err(); err != nil {
		return call{}, err
	}
	m := b.machine.Load()
	now := b.now()
	gen, state := m.load()
	c := call{m: m, gen: gen, start: now}
	switch {
	case m.forced == Open:
		b.counters.rejected.Add(1)
		return call{}, &OpenError{Name: b.name, State: Open, Forced: true}
	case m.forced == Closed:
		return c, nil
	case state == Closed:
		if b.throttling.Load() {
			if err := b.throttle(now); err != nil {
				return call{}, err
			}
		}
		return c, nil
	case state == Open && now < m.openUntil():
		return call{}, b.refuse(m)
	}
	p, err := m.newProbe(now)
	b.notify()
	if err != nil {
		return call{}, b.refuse(m)
	}
	return call{m: m, gen: p.gen, start: now, probe: p}, nil
}

func (b *Breaker) refuse(m *machine) *OpenError {
	b.counters.rejected.Add(1)
	_, state := m.load()
	if state == Closed { // it closed while this call was being refused
		state = HalfOpen
	}
	b.mu.Lock()
	t := m.tripped
	b.mu.Unlock()
	return &OpenError{
		Name: b.name, State: state, Calls: t[0], Failures: t[1], Slow: t[2],
		NextProbe: b.epoch.Add(m.openUntil()),
	}
}

// outcome is what a call says about the dependency.
type outcome uint8

const (
	succeeded outcome = iota
	failed
	panicked // a failure
	ignored
	refused // by the dependency
)

func (b *Breaker) outcome(ctx context.Context, err error) outcome {
	o := &b.opts
	switch {
	case err == nil:
		return succeeded
	case ctx.Err() == context.Canceled:
		return ignored
	case isOpen(err):
		return ignored
	case o.IsRefusal != nil && o.IsRefusal(err):
		return refused
	case o.IsIgnored != nil && o.IsIgnored(err):
		return ignored
	case o.IsFailure != nil && !o.IsFailure(err):
		return succeeded
	}
	return failed
}

func isOpen(err error) bool {
	var e *OpenError
	return errors.As(err, &e)
}

// end counts a call. A probe that its time-out has counted already does not count again.
func (b *Breaker) end(c call, o outcome) {
	if c.probe != nil && !c.probe.claim() {
		return
	}
	b.settle(c, o)
}

func (b *Breaker) settle(c call, o outcome) {
	now := b.now()
	isFailure := o == failed || o == panicked
	counts := isFailure || o == succeeded
	slow := counts && b.opts.SlowCall > 0 && now-c.start >= b.opts.SlowCall
	b.counters.count(o, slow)

	trip := false
	b.mu.Lock()
	switch {
	case counts:
		b.demand.add(now, tally{1, 1, 0})
		if gen, state := c.m.load(); gen == c.gen {
			c.m.window.add(now, tally{1, bit(isFailure), bit(slow)})
			trip = state == Closed && c.m.mustTrip(now)
		}
	case o == refused:
		b.demand.add(now, tally{1, 0, 1})
		b.throttling.Store(b.opts.MaxThrottle > 0)
	}
	b.mu.Unlock()

	switch {
	case c.probe != nil:
		switch {
		case !counts:
			c.probe.report(errNothing)
		case isFailure || slow && b.opts.SlowRate > 0:
			c.probe.report(errFailed)
		default:
			c.probe.report(nil)
		}
		b.notify()
	case trip:
		c.m.trip()
		b.notify()
	}
}

func bit(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}

// throttle refuses the share of calls that the dependency would most likely refuse.
func (b *Breaker) throttle(now time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.demand.total(now)
	requests, accepts, refusals := t[0], t[1], t[2]
	if refusals == 0 {
		b.throttling.Store(false)
		return nil
	}
	p := (float64(requests) - b.opts.ThrottleRatio*float64(accepts)) / float64(requests+1)
	if b.opts.random() >= min(p, b.opts.MaxThrottle) {
		return nil
	}
	b.demand.add(now, tally{1, 0, 0})
	b.counters.throttled.Add(1)
	return &OpenError{Name: b.name, State: Closed, Requests: requests, Accepts: accepts}
}

// event is a change of state that the listener and the log have not seen.
type event struct {
	from, to State
	attrs    []any // for the log
}

// changed notes a change; b.mu is held.
func (b *Breaker) changed(from, to State, attrs ...any) {
	if from != to {
		b.events = append(b.events, event{from, to, attrs})
	}
}

// notify delivers what changed, one at a time and in order, with no lock held. If somebody else is at it, they deliver
// these too.
func (b *Breaker) notify() {
	for {
		b.mu.Lock()
		if b.telling || len(b.events) == 0 {
			b.mu.Unlock()
			return
		}
		e := b.events[0]
		b.events = b.events[1:]
		b.telling = true
		b.mu.Unlock()
		b.tell(e)
	}
}

func (b *Breaker) tell(e event) {
	defer func() {
		if v := recover(); v != nil {
			b.opts.Logger.Error("breaker: OnStateChange panicked", "breaker", b.name, "panic", fmt.Sprint(v))
		}
		b.mu.Lock()
		b.telling = false
		b.mu.Unlock()
	}()
	log := b.opts.Logger.Info
	if e.to == Open {
		log = b.opts.Logger.Warn
	}
	log("breaker is "+e.to.String(), append([]any{"breaker", b.name, "was", e.from.String()}, e.attrs...)...)
	if b.opts.OnStateChange != nil {
		b.opts.OnStateChange(b.name, e.from, e.to)
	}
}
