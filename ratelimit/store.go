package ratelimit

import (
	"context"
	"time"
)

// Store keeps how much of each limit is used. [NewMemory] makes one for a single process; package redislimit has the one for a
// fleet. Implementations are safe for concurrent use and pass package ratelimittest.
//
// Take decides ask and charges it in one atomic step: every rule grants the cost, or none is charged. The state of a rule is one
// level ([Rule]), kept by ask.Name, ask.Key and the rule's place in ask.Rules. Time comes from one clock for all users of the
// state, never from theirs. [Ask.Decide] turns levels into the answer. A level above the rule's burst, left by a larger limit, is
// cut to it. An error means that nothing is known; the permits may be charged or not.
//
// A Store may also have a method Check() error, which [New] calls to report what is wrong with the store's own settings, and a
// method Warning(ctx) string, which a Limiter calls once after its first decision and logs if it is not empty.
type Store interface {
	Take(ctx context.Context, ask Ask) (Decision, error)
}

// Ask is a question to a [Store]: may Key of the limiter Name have Cost permits under all of Rules?
type Ask struct {
	Name  string // the limiter
	Key   string // whom it counts; may be anything a client can invent, of any length
	Cost  int    // permits, 1 to the smallest Burst of Rules
	Rules []Rule // 1 to 8; not to be changed or kept
}

// Decision is the answer to a request for permits. Where a limit joins several, Rule is the one that binds: the one that keeps
// the request waiting longest or, when it is allowed, has the fewest permits left. Limit, Remaining and ResetAfter speak of that one.
type Decision struct {
	Allowed    bool
	Rule       int           // index of the limit that binds, in the order they were joined; 0 for a single one
	Limit      int           // permits it grants at once: its burst
	Remaining  int           // whole permits left of it
	RetryAfter time.Duration // until the same request would be granted, if nobody else takes from the key; 0 when allowed
	ResetAfter time.Duration // until its burst is whole again
}

// Decide is the decision that levels mean: one for each rule, in units of [Rule.Units], after the charge when granted and as they
// were found, drained up to now, when not.
func (a Ask) Decide(granted bool, levels []int64) Decision {
	d := Decision{Allowed: granted}
	for i, r := range a.Rules {
		leak, unit := r.Units()
		full, level := int64(r.Burst)*unit, levels[i]
		remaining := int((full - level) / unit)
		reset := micros(ceilDiv(level, leak))
		var retry time.Duration
		if over := level + int64(a.Cost)*unit - full; !granted && over > 0 {
			retry = micros(ceilDiv(over, leak))
		}
		binds := i == 0 || retry > d.RetryAfter
		if granted && i > 0 {
			binds = remaining < d.Remaining || remaining == d.Remaining && reset > d.ResetAfter
		}
		if binds {
			d.Rule, d.Limit, d.Remaining, d.RetryAfter, d.ResetAfter = i, r.Burst, remaining, retry, reset
		}
	}
	return d
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
