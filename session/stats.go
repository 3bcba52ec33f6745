package session

import (
	"iter"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

type counters struct {
	loads, updates, writes, conflicts, touches, logins, logouts, revoked atomic.Uint64
	unavailable, unknown, deferFailed, downgraded                        atomic.Uint64
	queued                                                               atomic.Int64
	warned, looked                                                       atomic.Int64
	evicted                                                              atomic.Uint64
}

// warn says, at most once in ten seconds, that it is time for a warning.
func (c *counters) warn(now time.Time) bool {
	last := c.warned.Load()
	return now.UnixNano()-last > int64(10*time.Second) && c.warned.CompareAndSwap(last, now.UnixNano())
}

// Stats is a snapshot of what a Manager has done.
type Stats struct {
	Loads          uint64 `json:"loads" metric:"fairlead.session.loads,counter"`                     // records read
	Updates        uint64 `json:"updates" metric:"fairlead.session.updates,counter"`                 // changes asked for
	Writes         uint64 `json:"writes" metric:"fairlead.session.writes,counter"`                   // compare-and-sets and creations sent for them
	Conflicts      uint64 `json:"conflicts" metric:"fairlead.session.conflicts,counter"`             // of which met another change
	Queued         int64  `json:"queued" metric:"fairlead.session.queued,gauge"`                     // changes that wait for their session's leader
	Touches        uint64 `json:"touches" metric:"fairlead.session.touches,counter"`                 // uses noted
	Logins         uint64 `json:"logins" metric:"fairlead.session.logins,counter"`                   // logins completed
	Logouts        uint64 `json:"logouts" metric:"fairlead.session.logouts,counter"`                 // sessions ended by Logout
	Revoked        uint64 `json:"revoked" metric:"fairlead.session.revoked,counter"`                 // sessions ended by RevokeUser
	Unavailable    uint64 `json:"unavailable" metric:"fairlead.session.unavailable,counter"`         // failures of the store
	OutcomeUnknown uint64 `json:"outcome_unknown" metric:"fairlead.session.outcome_unknown,counter"` // changes with ErrOutcomeUnknown
	DeferFailed    uint64 `json:"defer_failed" metric:"fairlead.session.defer_failed,counter"`       // responses replaced by a 503
	Evicted        uint64 `json:"evicted" metric:"fairlead.session.evicted,gauge"`                   // keys, of any application, that the store dropped for want of memory; looked up once a minute
	Downgraded     uint64 `json:"downgraded" metric:"fairlead.session.cache_downgraded,counter"`     // answers with a cookie that a shared cache could have kept
}

// Stats returns a snapshot.
func (m *Manager[T]) Stats() Stats {
	n := &m.n
	return Stats{
		Loads: n.loads.Load(), Updates: n.updates.Load(), Writes: n.writes.Load(), Conflicts: n.conflicts.Load(),
		Queued: n.queued.Load(), Touches: n.touches.Load(), Logins: n.logins.Load(), Logouts: n.logouts.Load(),
		Revoked: n.revoked.Load(), Unavailable: n.unavailable.Load(), OutcomeUnknown: n.unknown.Load(),
		DeferFailed: n.deferFailed.Load(), Evicted: n.evicted.Load(), Downgraded: n.downgraded.Load(),
	}
}

// Samples returns the numbers of Stats for the page and /metrics.
func (m *Manager[T]) Samples() iter.Seq[telemetry.Sample] {
	return telemetry.Samples(m.Stats(), telemetry.Attr{Key: "session", Value: m.o.Name})
}
