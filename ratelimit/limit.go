package ratelimit

import (
	"errors"
	"fmt"
	"time"
)

// Limit says how much is allowed. It is plain data: build one with [PerSecond], [Per], [Calendar] or [InFlight], join several with
// [Limit.And]. The zero Limit is not valid for [New]. A Limit is immutable and may be shared.
type Limit struct {
	rules []Rule
	errs  []error
}

const (
	maxRules = 8
	maxCount = 1_000_000_000
	maxPer   = 10 * 365 * 24 * time.Hour
	maxHeld  = 100_000
)

// PerSecond allows n permits a second on average, n of them at once unless [Limit.Burst] says otherwise.
// n must be 1 to 1,000,000,000; New reports anything else.
func PerSecond(n int) Limit { return rate(fmt.Sprintf("PerSecond(%d)", n), n, time.Second) }

// Per allows n permits in d on average, n of them at once unless [Limit.Burst] says otherwise: Per(100, time.Hour) grants 100 at
// once and then one every 36 seconds. n must be 1 to 1,000,000,000 and d 1 µs to ten years; fractions of a microsecond are rounded up.
func Per(n int, d time.Duration) Limit { return rate(fmt.Sprintf("Per(%d, %v)", n, d), n, d) }

func rate(call string, n int, d time.Duration) Limit {
	var errs []error
	if n < 1 || n > maxCount {
		errs = append(errs, fmt.Errorf("limit %s: n must be 1 to %d", call, maxCount))
	}
	if d < time.Microsecond || d > maxPer {
		errs = append(errs, fmt.Errorf("limit %s: d must be %v to %v", call, time.Microsecond, maxPer))
	}
	return Limit{errs: errs}.with(Rule{N: n, Per: d, Burst: n})
}

// Calendar allows n permits in each unit of the calendar in loc (nil means UTC), for quotas that people read: 10,000 a month, new on
// the 1st at midnight. Up to 2n may go within a short time around a boundary; put a rate beside it with [Limit.And]. The store's
// clock decides which unit it is. n must be 1 to 1,000,000,000.
func Calendar(n int, unit Unit, loc *time.Location) Limit {
	call := fmt.Sprintf("Calendar(%d, %v)", n, unit)
	var errs []error
	if n < 1 || n > maxCount {
		errs = append(errs, fmt.Errorf("limit %s: n must be 1 to %d", call, maxCount))
	}
	if unit < Minute || unit > Month {
		errs = append(errs, fmt.Errorf("limit %s: unit must be Minute, Hour, Day, Week or Month", call))
	}
	if loc == nil {
		loc = time.UTC
	}
	return Limit{errs: errs}.with(Rule{N: n, Burst: n, Unit: unit, Location: loc})
}

// InFlight allows n permits to be held at once, over all processes that share the store. Each is given back with [Limiter.Return]
// ([Middleware] does it) or else when ttl has passed, so that a process that was killed holds none for longer: let ttl be longer
// than the work may take, since a permit whose ttl has passed goes to somebody else. n must be 1 to 100,000 and ttl 1 ms to ten
// years.
func InFlight(n int, ttl time.Duration) Limit {
	call := fmt.Sprintf("InFlight(%d, %v)", n, ttl)
	var errs []error
	if n < 1 || n > maxHeld {
		errs = append(errs, fmt.Errorf("limit %s: n must be 1 to %d", call, maxHeld))
	}
	if ttl < time.Millisecond || ttl > maxPer {
		errs = append(errs, fmt.Errorf("limit %s: ttl must be %v to %v", call, time.Millisecond, maxPer))
	}
	return Limit{errs: errs}.with(Rule{N: n, Burst: n, TTL: ttl})
}

// Burst returns l with b permits at once, 1 to 1,000,000,000. On a joined limit it is an error: set the burst of each part
// before [Limit.And].
func (l Limit) Burst(b int) Limit {
	switch {
	case len(l.rules) != 1 || !l.rules[0].isRate():
		return l.wrong(fmt.Errorf("limit Burst(%d): must follow PerSecond or Per", b))
	case b < 1 || b > maxCount:
		return l.wrong(fmt.Errorf("limit Burst(%d): must be 1 to %d", b, maxCount))
	}
	r := l.rules[0]
	r.Burst = b
	return Limit{errs: l.errs}.with(r)
}

// And returns a limit that holds when both hold. They are decided together: a request that either refuses takes from none. At most
// 8 can be joined, one of them InFlight.
func (l Limit) And(other Limit) Limit {
	joined := Limit{
		rules: append(l.rules[:len(l.rules):len(l.rules)], other.rules...),
		errs:  append(l.errs[:len(l.errs):len(l.errs)], other.errs...),
	}
	if len(l.rules) == 0 || len(other.rules) == 0 {
		joined = joined.wrong(errors.New("limit And: a part is the zero Limit"))
	}
	if holds(l.rules) && holds(other.rules) {
		joined = joined.wrong(errors.New("limit And: more than one InFlight"))
	}
	if len(joined.rules) > maxRules {
		joined = joined.wrong(fmt.Errorf("limit And: %d parts: must be at most %d", len(joined.rules), maxRules))
	}
	return joined
}

// Rules returns the rates that l joins, in order, for those who write or test a [Store].
func (l Limit) Rules() []Rule { return append([]Rule(nil), l.rules...) }

// String describes the limit for people: "50 per 1s (burst 100) and 1000 per day (UTC) and 3 in flight (for 1m0s)".
func (l Limit) String() string {
	if len(l.rules) == 0 {
		return "no limit"
	}
	var b []byte
	for i, r := range l.rules {
		if i > 0 {
			b = append(b, " and "...)
		}
		b = r.describe(b)
	}
	return string(b)
}

func (l Limit) with(r Rule) Limit {
	if len(l.errs) == 0 {
		var err error
		if r, err = r.counted(); err != nil {
			l = l.wrong(err)
		}
	}
	l.rules = append(l.rules[:len(l.rules):len(l.rules)], r)
	return l
}

func (l Limit) wrong(err error) Limit {
	l.errs = append(l.errs[:len(l.errs):len(l.errs)], err)
	return l
}

func (l Limit) valid() error {
	if len(l.rules) == 0 && len(l.errs) == 0 {
		return errors.New("limit: is the zero Limit: use PerSecond, Per, Calendar or InFlight")
	}
	return errors.Join(l.errs...)
}

// maxCost is the largest cost that every rule could ever grant.
func maxCost(rules []Rule) int {
	least := maxCount
	for _, r := range rules {
		least = min(least, r.Burst)
	}
	return least
}
