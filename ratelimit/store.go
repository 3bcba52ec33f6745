package ratelimit

import (
	"context"
	"time"
)

// Store keeps how much of each limit is used. [NewMemory] makes one for a single process; package redislimit has the one for a
// fleet. Implementations are safe for concurrent use and pass package ratelimittest.
//
// Take decides ask and charges it in one atomic step: it grants as many permits as every rule has, from ask.Cost to ask.Most, or
// charges none. The state of a rule is one level ([Rule]), kept by ask.Name, ask.Key and the rule's place in ask.Rules. Time comes
// from one clock for all users of the state, never from theirs. [Ask.Decide] turns levels into the answer. A level above the
// rule's burst, left by a larger limit, is cut to it. An error means that nothing is known; the permits may be charged or not. A
// Take repeated with the same ID holds its permits in flight once.
//
// Return gives back ask.Cost permits that Take granted at ask.At with ask.ID. Of a rate it takes from the level what of them has
// not drained since, so that nobody is granted more for it; of a quota only what was taken in the same unit.
//
// A Store that should not be asked while it is down says so with an error at once: a Limiter waits for each answer. It may also have
//
//	Supports(Rule) bool              // New reports what it cannot count; without it rates only
//	Check() error                    // New reports what is wrong with the store's own settings
//	Warning(context.Context) string  // called once after the first decision and logged if it is not empty
type Store interface {
	Take(ctx context.Context, ask Ask) (Decision, error)
	Return(ctx context.Context, ask Ask) error
}

// Ask is a question to a [Store]: may Key of the limiter Name have Cost permits under all of Rules?
type Ask struct {
	Name  string // the limiter
	Key   string // whom it counts; may be anything a client can invent, of any length
	Cost  int    // permits, 1 to the smallest Burst of Rules
	Most  int    // as many as this are welcome; less than Cost means Cost
	Rules []Rule // 1 to 8; not to be changed or kept
	ID    string // of the permits in flight, unique; "" where no rule counts those
	At    int64  // for Return: Decision.At of the grant
}

// Decision is the answer to a request for permits. Where a limit joins several, Rule is the one that binds: the one that keeps
// the request waiting longest or, when it is allowed, has the fewest permits left. Limit, Remaining and ResetAfter speak of that one.
type Decision struct {
	Allowed    bool
	Granted    int           // permits charged: the cost, or 0
	Rule       int           // index of the limit that binds, in the order they were joined; 0 for a single one
	Limit      int           // permits it grants at once: its burst
	Remaining  int           // whole permits left of it
	RetryAfter time.Duration // until the same request would be granted, if nobody else takes from the key; 0 when allowed
	ResetAfter time.Duration // until its burst is whole again
	At         int64         // microseconds of the store's clock when it decided; for Return

	id   string // of permits in flight
	from source // who granted, for Return
}

type source uint8

const (
	fromStore source = iota
	fromFallback
	fromLease
)

// flightRetry is the longest RetryAfter where permits are in flight: they may be given back at any time.
const flightRetry = time.Second

// Decide is the decision that levels mean, one for each rule: after the charge when granted is not 0 and as they were found, drained
// up to now, when it is. waits are the microseconds until the unit of a quota ends, or the last permit in flight has timed out; those
// of rates are not read, and with rates only it may be nil.
func (a Ask) Decide(granted int, levels, waits []int64) Decision {
	d := Decision{Allowed: granted > 0, Granted: granted}
	for i, r := range a.Rules {
		leak, unit := r.Units()
		full, level := int64(r.Burst)*unit, levels[i]
		remaining := int((full - level) / unit)
		over := level + int64(a.Cost)*unit - full
		var reset, retry time.Duration
		switch {
		case r.isRate():
			reset = micros(ceilDiv(level, leak))
			retry = micros(ceilDiv(max(0, over), leak))
		case level > 0:
			reset = max(micros(waits[i]), time.Microsecond)
			if retry = reset; r.TTL != 0 {
				retry = min(retry, flightRetry)
			}
		}
		if granted > 0 || over <= 0 {
			retry = 0
		}
		binds := i == 0 || retry > d.RetryAfter
		if granted > 0 && i > 0 {
			binds = remaining < d.Remaining || remaining == d.Remaining && reset > d.ResetAfter
		}
		if binds {
			d.Rule, d.Limit, d.Remaining, d.RetryAfter, d.ResetAfter = i, r.Burst, remaining, retry, reset
		}
	}
	return d
}

// most is the most permits welcome.
func (a Ask) most() int { return max(a.Cost, a.Most) }

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
