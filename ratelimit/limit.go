package ratelimit

import (
	"errors"
	"fmt"
	"math/bits"
	"time"
)

// Limit says how much is allowed. It is plain data: build one with [PerSecond] or [Per], join several with [Limit.And]. The zero
// Limit is not valid for [New]. A Limit is immutable and may be shared.
type Limit struct {
	rules []Rule
	errs  []error
}

// Rule is one rate of a [Limit], the way a [Store] sees it: N permits a Per on average and at most Burst at once. Its state is
// the level of a leaky bucket that holds Burst permits and starts empty (the continuous-state form of the generic cell rate
// algorithm, ITU-T I.371 annex A): granting adds the cost, time drains it, and what would overflow is refused.
type Rule struct {
	N     int           // permits
	Per   time.Duration // the time in which N permits drain
	Burst int           // what fits at once

	leak, unit int64
}

const (
	maxRules = 8
	maxCount = 1_000_000_000
	maxPer   = 10 * 365 * 24 * time.Hour
	// A script in Redis counts in float64. Levels and sums of two of them stay exact below 2^53.
	maxUnits = 1 << 52
	maxShare = 1 << 61 // counted in int64 only
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

// Burst returns l with b permits at once, 1 to 1,000,000,000. On a joined limit it is an error: set the burst of each part
// before [Limit.And].
func (l Limit) Burst(b int) Limit {
	switch {
	case len(l.rules) != 1:
		return l.wrong(fmt.Errorf("limit Burst(%d): must follow PerSecond or Per", b))
	case b < 1 || b > maxCount:
		return l.wrong(fmt.Errorf("limit Burst(%d): must be 1 to %d", b, maxCount))
	}
	r := l.rules[0]
	r.Burst = b
	return Limit{errs: l.errs}.with(r)
}

// And returns a limit that holds when both hold. They are decided together: a request that either refuses takes from none. At most
// 8 can be joined.
func (l Limit) And(other Limit) Limit {
	joined := Limit{
		rules: append(l.rules[:len(l.rules):len(l.rules)], other.rules...),
		errs:  append(l.errs[:len(l.errs):len(l.errs)], other.errs...),
	}
	if len(l.rules) == 0 || len(other.rules) == 0 {
		joined = joined.wrong(errors.New("limit And: a part is the zero Limit"))
	}
	if len(joined.rules) > maxRules {
		joined = joined.wrong(fmt.Errorf("limit And: %d parts: must be at most %d", len(joined.rules), maxRules))
	}
	return joined
}

// Rules returns the rates that l joins, in order, for those who write or test a [Store].
func (l Limit) Rules() []Rule { return append([]Rule(nil), l.rules...) }

// String describes the limit for people: "50 per 1s (burst 100) and 1000 per 1h0m0s".
func (l Limit) String() string {
	if len(l.rules) == 0 {
		return "no limit"
	}
	var b []byte
	for i, r := range l.rules {
		if i > 0 {
			b = append(b, " and "...)
		}
		b = fmt.Appendf(b, "%d per %v", r.N, r.Per)
		if r.Burst != r.N {
			b = fmt.Appendf(b, " (burst %d)", r.Burst)
		}
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
		return errors.New("limit: is the zero Limit: use PerSecond or Per")
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

// Units returns the whole numbers to count this rule in: one permit is unit units, and leak of them drain each microsecond. With
// them the arithmetic is exact, also in a float64: a level never exceeds Burst × unit ≤ 2^52. Where N ÷ Per does not fit such
// numbers the rate is rounded down, by less than one part in a million.
func (r Rule) Units() (leak, unit int64) {
	if r.unit == 0 { // made by hand, not by a Limit
		if c, err := r.counted(); err == nil {
			return c.leak, c.unit
		}
		return 1, 1
	}
	return r.leak, r.unit
}

func (r Rule) counted() (Rule, error) {
	per := int64((r.Per + time.Microsecond - 1) / time.Microsecond)
	n := int64(r.N)
	if n < 1 || per < 1 || r.Burst < 1 {
		return r, fmt.Errorf("limit: %d per %v with burst %d: all must be positive", r.N, r.Per, r.Burst)
	}
	g := gcd(n, per)
	r.leak, r.unit = n/g, per/g
	if most := maxUnits / int64(r.Burst); r.unit > most {
		// The largest leak whose unit still fits; the unit is rounded up, so that the rate is never more than asked for.
		k := mulDiv(most, r.leak, r.unit)
		if k == 0 {
			return r, fmt.Errorf("limit: %d per %v with burst %d: the burst takes more than 142 years to come back", r.N, r.Per, r.Burst)
		}
		unit := mulDiv(r.unit, k, r.leak)
		if mulDiv(unit, r.leak, k) < r.unit || !divides(r.unit, k, r.leak) {
			unit++
		}
		r.leak, r.unit = k, unit
	}
	return r, nil
}

// share is what one of n processes may do alone: the rate divided exactly, at least one permit at once.
func (r Rule) share(n int) Rule {
	g := gcd(r.leak, int64(n))
	r.leak /= g
	r.unit = min(r.unit, maxShare/(int64(n)/g)) * (int64(n) / g)
	r.Burst = max(1, r.Burst/n)
	return r
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// mulDiv returns a × b ÷ c rounded down, for results that fit.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(q)
}

func divides(a, b, c int64) bool {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	return bits.Rem64(hi, lo, uint64(c)) == 0
}

// ceilDiv returns a ÷ b rounded up, for a ≥ 0 and b > 0.
func ceilDiv(a, b int64) int64 {
	q := a / b
	if a%b != 0 {
		q++
	}
	return q
}
