package breaker

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// What gobreaker is told of a call. It sees neither the calls' errors nor their values.
var (
	errFailed  = errors.New("failed")
	errNothing = errors.New("neither success nor failure")
)

// machine is the state machine of a breaker, until Force puts another in its place. gobreaker decides which state follows
// which, when the open one ends and how many probes there are; which window of ours trips it is what mustTrip says.
//
// gobreaker is told only of what may change its state: that the window trips, and of probes. Under Execute a call would
// hold its place until it returns, so that a probe that hangs, or ends its goroutine, would block it for ever; Allow
// leaves it to us when a probe is over.
type machine struct {
	b      *Breaker
	forced State // Auto unless forced
	gb     *gobreaker.TwoStepCircuitBreaker[struct{}]

	word  atomic.Uint64 // generation<<2 | State, as gobreaker last said
	until atomic.Int64  // since the epoch; when the open state ends, or ended

	window  window // of this generation: calls, failures, slow calls; under b.mu
	tripped tally  // what it held when it opened; under b.mu
}

func newMachine(b *Breaker, forced State) *machine {
	m := &machine{b: b, forced: forced, window: newWindow(b.opts.Window, b.opts.Buckets)}
	m.gb = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: uint32(b.opts.Probes),
		Timeout:     b.opts.OpenFor - 1, // it wants more than Timeout to pass
		ReadyToTrip: func(gobreaker.Counts) bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return m.mustTrip(b.now())
		},
		OnStateChange: func(_ string, from, to gobreaker.State) { m.onChange(stateOf(from), stateOf(to)) },
		IsExcluded:    func(err error) bool { return err == errNothing },
	})
	return m
}

func stateOf(s gobreaker.State) State {
	switch s {
	case gobreaker.StateOpen:
		return Open
	case gobreaker.StateHalfOpen:
		return HalfOpen
	}
	return Closed
}

func (m *machine) load() (gen uint64, s State) {
	w := m.word.Load()
	return w >> 2, State(w & 3)
}

func (m *machine) state() State {
	_, s := m.load()
	return s
}

func (m *machine) isForced() bool { return m.forced != Auto }

// visible is the state that users see.
func (m *machine) visible() State {
	if m.isForced() {
		return m.forced
	}
	return m.state()
}

func (m *machine) openUntil() time.Duration { return time.Duration(m.until.Load()) }

// onChange is called by gobreaker, under its lock.
func (m *machine) onChange(from, to State) {
	b := m.b
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	var attrs []any
	if to == Open {
		m.tripped = m.window.total(now)
		m.until.Store(int64(now + b.opts.OpenFor))
		attrs = []any{"calls", m.tripped[0], "failures", m.tripped[1], "slow", m.tripped[2], "for", b.opts.OpenFor}
	}
	m.window.clear()
	gen, _ := m.load()
	m.word.Store((gen+1)<<2 | uint64(to))
	if b.machine.Load() != m {
		return // a call from before Force
	}
	if to == Open {
		b.counters.trips.Add(1)
	}
	b.changed(from, to, attrs...)
}

// mustTrip says whether the window holds enough; b.mu is held.
func (m *machine) mustTrip(now time.Duration) bool {
	o := &m.b.opts
	t := m.window.total(now)
	if m.isForced() || t[0] < uint64(o.MinCalls) {
		return false
	}
	atLeast := func(n uint64, rate float64) bool { return rate > 0 && float64(n)/float64(t[0]) >= rate }
	return atLeast(t[1], o.FailureRate) || atLeast(t[2], o.SlowRate)
}

// trip tells gobreaker that the window holds enough. gobreaker asks mustTrip again, under its lock, since another call may
// have opened and emptied it by now.
func (m *machine) trip() {
	report, err := m.gb.Allow()
	if err != nil {
		return // open already
	}
	if m.state() != Closed {
		report(errNothing) // this took a probe's place
		return
	}
	report(errFailed)
}

// probe is a call that passed while half-open. It ends once, with its call or at its time-out.
type probe struct {
	gen    uint64
	report func(error) // to gobreaker
	over   atomic.Bool
	timer  *time.Timer
}

// newProbe asks gobreaker for a probe's place. If the open state's time is over, gobreaker turns to half-open here.
func (m *machine) newProbe(now time.Duration) (*probe, error) {
	report, err := m.gb.Allow()
	if err != nil {
		return nil, err
	}
	gen, _ := m.load()
	p := &probe{gen: gen, report: report}
	c := call{m: m, gen: gen, start: now, probe: p}
	p.timer = time.AfterFunc(m.b.opts.ProbeTimeout, func() {
		if p.over.CompareAndSwap(false, true) {
			m.b.settle(c, failed)
		}
	})
	return p, nil
}

// claim ends a probe; false means that its time-out did.
func (p *probe) claim() bool {
	if !p.over.CompareAndSwap(false, true) {
		return false
	}
	p.timer.Stop()
	return true
}
