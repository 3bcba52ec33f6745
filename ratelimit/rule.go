package ratelimit

import (
	"fmt"
	"math/bits"
	"time"
)

// Rule is one part of a [Limit], the way a [Store] sees it. There are three kinds:
//
//   - A rate has neither Unit nor TTL: N permits a Per on average and at most Burst at once. Its level is that of a leaky bucket
//     that holds Burst permits and starts empty (the continuous-state form of the generic cell rate algorithm, ITU-T I.371 annex
//     A): granting adds the cost, time drains it, and what would overflow is refused. It is counted in [Rule.Units].
//   - With Unit it is a quota: N permits in each such unit of Location's calendar ([Rule.Window]). Its level is the permits used in
//     the unit.
//   - With TTL it bounds what is in flight: N permits held at once, each until it is given back or TTL has passed since it was
//     granted. Its level is the permits held.
type Rule struct {
	N        int            // permits
	Per      time.Duration  // of a rate: the time in which N permits drain
	Burst    int            // what fits at once; N, unless it is a rate
	Unit     Unit           // of a quota
	Location *time.Location // of a quota
	TTL      time.Duration  // of permits in flight

	leak, unit int64
}

const (
	// A script in Redis counts in float64. Levels and sums of two of them stay exact below 2^53.
	maxUnits = 1 << 52
	maxShare = 1 << 61 // counted in int64 only
)

func (r Rule) isRate() bool { return r.Unit == 0 && r.TTL == 0 }

// holds says whether permits are to be given back.
func holds(rules []Rule) bool {
	for _, r := range rules {
		if r.TTL != 0 {
			return true
		}
	}
	return false
}

func onlyRates(rules []Rule) bool {
	for _, r := range rules {
		if !r.isRate() {
			return false
		}
	}
	return true
}

func (r Rule) describe(b []byte) []byte {
	switch {
	case r.Unit != 0:
		return fmt.Appendf(b, "%d per %v (%v)", r.N, r.Unit, r.Location)
	case r.TTL != 0:
		return fmt.Appendf(b, "%d in flight (for %v)", r.N, r.TTL)
	}
	b = fmt.Appendf(b, "%d per %v", r.N, r.Per)
	if r.Burst != r.N {
		b = fmt.Appendf(b, " (burst %d)", r.Burst)
	}
	return b
}

// Units returns the whole numbers to count a rate in: one permit is unit units, and leak of them drain each microsecond. With
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
	if !r.isRate() {
		r.leak, r.unit = 1, 1
		if r.N < 1 || r.Burst < 1 {
			return r, fmt.Errorf("limit: %d with burst %d: both must be positive", r.N, r.Burst)
		}
		return r, nil
	}
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
	if !r.isRate() {
		r.N = max(1, r.N/n)
		r.Burst = r.N
		return r
	}
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
