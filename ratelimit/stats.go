package ratelimit

import (
	"iter"
	"sync/atomic"

	"github.com/fairlead/fairlead/internal/telemetry"
)

type counts struct {
	allowed, refused, remembered, failures, local, denied, leased, returned atomic.Uint64
}

func (c *counts) decided(allowed bool) {
	if allowed {
		c.allowed.Add(1)
	} else {
		c.refused.Add(1)
	}
}

// Stats is a snapshot of what a [Limiter] has done since New.
type Stats struct {
	Allowed    uint64 `json:"allowed" metric:"fairlead.ratelimit.decisions,counter,outcome=allowed"`
	Refused    uint64 `json:"refused" metric:"fairlead.ratelimit.decisions,counter,outcome=refused"`
	Denied     uint64 `json:"denied" metric:"fairlead.ratelimit.decisions,counter,outcome=denied"` // by Deny, without the store
	Remembered uint64 `json:"remembered" metric:"fairlead.ratelimit.remembered,counter"`           // of Refused: without asking the store
	Leased     uint64 `json:"leased" metric:"fairlead.ratelimit.leased,counter"`                   // of Allowed: from a lease, without asking the store
	Returned   uint64 `json:"returned" metric:"fairlead.ratelimit.returned,counter"`               // decisions given back
	Local      uint64 `json:"local" metric:"fairlead.ratelimit.local,counter"`                     // of Allowed and Refused: by Local, without the store
	Failures   uint64 `json:"failures" metric:"fairlead.ratelimit.store_failures,counter"`         // errors and time-outs of the store
	Down       bool   `json:"down" metric:"fairlead.ratelimit.store_down,max"`                     // the store's last answer was a failure
	Waiting    int    `json:"waiting" metric:"fairlead.ratelimit.waiting,gauge"`                   // calls in Wait
	Keys       int    `json:"keys" metric:"fairlead.ratelimit.keys,gauge"`                         // rates that the Memory holds, or that of Local
	Evicted    uint64 `json:"evicted" metric:"fairlead.ratelimit.evicted,counter"`                 // of the same: dropped for want of room before they had drained
}

// Stats returns a snapshot.
func (l *Limiter) Stats() Stats {
	s := Stats{
		Allowed:    l.counts.allowed.Load(),
		Refused:    l.counts.refused.Load(),
		Denied:     l.counts.denied.Load(),
		Remembered: l.counts.remembered.Load(),
		Local:      l.counts.local.Load(),
		Leased:     l.counts.leased.Load(),
		Returned:   l.counts.returned.Load(),
		Failures:   l.counts.failures.Load(),
		Waiting:    l.lines.len(),
	}
	m := l.memory
	if l.remote != nil {
		s.Down = l.remote.down.Load()
		m = l.remote.fallback
	}
	if m != nil {
		s.Keys, s.Evicted = m.len(), m.evicted()
	}
	return s
}

// Samples yields the numbers of Stats for the page and /metrics.
func (l *Limiter) Samples() iter.Seq[telemetry.Sample] {
	return telemetry.Samples(l.Stats(), telemetry.Attr{Key: "limiter", Value: l.name})
}
