package breaker

import (
	"iter"
	"sync/atomic"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// Stats is a snapshot of a breaker.
type Stats struct {
	State  State `json:"state" metric:"fairlead.breaker.state,max"` // 0 closed, 1 half-open, 2 open
	Forced bool  `json:"forced" metric:"fairlead.breaker.forced,gauge"`

	Successes uint64 `json:"successes" metric:"fairlead.breaker.calls,counter,result=success"`
	Failures  uint64 `json:"failures" metric:"fairlead.breaker.calls,counter,result=failure"` // panics included
	Ignored   uint64 `json:"ignored" metric:"fairlead.breaker.calls,counter,result=ignored"`  // cancelled by the caller, mostly
	Refused   uint64 `json:"refused" metric:"fairlead.breaker.calls,counter,result=refused"`  // by the dependency
	Panics    uint64 `json:"panics" metric:"fairlead.breaker.panics,counter"`
	Slow      uint64 `json:"slow" metric:"fairlead.breaker.slow,counter"` // of the successes and failures

	Rejected  uint64 `json:"rejected" metric:"fairlead.breaker.rejections,counter,reason=open"`      // not made: open, or no probe to give away
	Throttled uint64 `json:"throttled" metric:"fairlead.breaker.rejections,counter,reason=throttle"` // not made: the dependency refuses
	Trips     uint64 `json:"trips" metric:"fairlead.breaker.trips,counter"`                          // times it opened, by a failed probe too

	WindowCalls    uint64 `json:"window_calls" metric:"fairlead.breaker.window.calls,gauge"`
	WindowFailures uint64 `json:"window_failures" metric:"fairlead.breaker.window.failures,gauge"`
	WindowSlow     uint64 `json:"window_slow" metric:"fairlead.breaker.window.slow,gauge"`
}

type counters struct {
	successes, failures, ignored, refused, panics, slow atomic.Uint64
	rejected, throttled, trips                          atomic.Uint64
}

func (c *counters) count(o outcome, slow bool) {
	switch o {
	case succeeded:
		c.successes.Add(1)
	case panicked:
		c.panics.Add(1)
		c.failures.Add(1)
	case failed:
		c.failures.Add(1)
	case ignored:
		c.ignored.Add(1)
	case refused:
		c.refused.Add(1)
	}
	if slow {
		c.slow.Add(1)
	}
}

// Stats returns a snapshot.
func (b *Breaker) Stats() Stats {
	n := &b.counters
	s := Stats{
		State:     b.State(),
		Successes: n.successes.Load(), Failures: n.failures.Load(), Ignored: n.ignored.Load(), Refused: n.refused.Load(),
		Panics: n.panics.Load(), Slow: n.slow.Load(),
		Rejected: n.rejected.Load(), Throttled: n.throttled.Load(), Trips: n.trips.Load(),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.machine.Load()
	s.Forced = m.isForced()
	t := m.window.total(b.now())
	s.WindowCalls, s.WindowFailures, s.WindowSlow = t[0], t[1], t[2]
	return s
}

// Samples returns the Stats as telemetry samples.
func (b *Breaker) Samples() iter.Seq[telemetry.Sample] {
	return telemetry.Samples(b.Stats(), b.attrs...)
}
