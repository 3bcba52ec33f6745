package overload

import (
	"iter"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

type counts struct {
	admitted, late, streams, abandoned atomic.Uint64
	refused                            [3]atomic.Uint64 // by priority
	reasons                            [numReasons]atomic.Uint64
	wait                               telemetry.DurationHistogram
}

// Stats is a snapshot of a Limiter.
type Stats struct {
	Limit      int               `json:"limit" metric:"fairlead.overload.limit,gauge"`           // requests that may run
	InFlight   int               `json:"in_flight" metric:"fairlead.overload.in_flight,gauge"`   // requests that run, without streams
	Waiting    int               `json:"waiting" metric:"fairlead.overload.waiting,gauge"`       // requests in the queue
	Saturation float64           `json:"saturation" metric:"fairlead.overload.saturation,max"`   // (InFlight + Waiting) ÷ Limit; 0 when Off
	Admitted   uint64            `json:"admitted" metric:"fairlead.overload.admitted,counter"`   // permits given
	Late       uint64            `json:"late" metric:"fairlead.overload.late,counter"`           // of those done: the client had left
	Streams    uint64            `json:"streams" metric:"fairlead.overload.streams,counter"`     // gave their permit back to stay open
	Abandoned  uint64            `json:"abandoned" metric:"fairlead.overload.abandoned,counter"` // the client left while it waited
	Wait       telemetry.Buckets `json:"wait" metric:"fairlead.overload.wait,histogram"`         // in the queue, of those admitted from it

	RefusedSheddable uint64 `json:"refused_sheddable" metric:"fairlead.overload.refused,counter,priority=sheddable"` // by priority
	RefusedDefault   uint64 `json:"refused_default" metric:"fairlead.overload.refused,counter,priority=default"`
	RefusedCritical  uint64 `json:"refused_critical" metric:"fairlead.overload.refused,counter,priority=critical"`

	RefusedWaited   uint64 `json:"refused_waited" metric:"fairlead.overload.refusals,counter,reason=waited"`     // the same by reason: no permit in time
	RefusedDeadline uint64 `json:"refused_deadline" metric:"fairlead.overload.refusals,counter,reason=deadline"` // too late to be done by the deadline
	RefusedFull     uint64 `json:"refused_full" metric:"fairlead.overload.refusals,counter,reason=full"`         // no room in the queue
	RefusedMemory   uint64 `json:"refused_memory" metric:"fairlead.overload.refusals,counter,reason=memory"`     // memory runs out

	BaseTime time.Duration `json:"base_time" metric:"fairlead.overload.base_time,max"` // of a request without a queue inside, as estimated
	Rate     float64       `json:"rate" metric:"fairlead.overload.rate,gauge"`         // requests done a second when last saturated, or now
	Patience time.Duration `json:"patience" metric:"fairlead.overload.patience,min"`   // of clients, as far as is known
}

// Stats returns a snapshot.
func (l *Limiter) Stats() Stats {
	c := &l.counts
	s := Stats{
		Admitted:         c.admitted.Load(),
		Late:             c.late.Load(),
		Streams:          c.streams.Load(),
		Abandoned:        c.abandoned.Load(),
		Wait:             c.wait.Snapshot(),
		RefusedSheddable: c.refused[Sheddable.index()].Load(),
		RefusedDefault:   c.refused[Default.index()].Load(),
		RefusedCritical:  c.refused[Critical.index()].Load(),
		RefusedWaited:    c.reasons[waited].Load(),
		RefusedDeadline:  c.reasons[tooLate].Load(),
		RefusedFull:      c.reasons[full].Load(),
		RefusedMemory:    c.reasons[noMemory].Load(),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.InFlight, s.Waiting, s.Limit = l.running, l.queue.waiting, l.limit.max()
	if !l.opts.Off {
		s.Saturation = float64(s.InFlight+s.Waiting) / float64(s.Limit)
	}
	state := l.limit.state()
	s.BaseTime, s.Rate, s.Patience = duration(state.base), state.rate, duration(l.limit.patience())
	return s
}

// Samples yields the numbers of Stats for the page and /metrics.
func (l *Limiter) Samples() iter.Seq[telemetry.Sample] {
	return telemetry.Samples(l.Stats(), telemetry.Attr{Key: "limiter", Value: l.name})
}
