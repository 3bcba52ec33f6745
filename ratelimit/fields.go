package ratelimit

import (
	"math/rand/v2"
	"strconv"
	"time"
)

// The header fields of draft-ietf-httpapi-ratelimit-headers-11: lists of strings with parameters (RFC 9651).
//
//	RateLimit-Policy: "client";q=400;w=2     the burst, and the time in which it comes back
//	RateLimit: "client";r=399;t=1            permits left; within t seconds there are no more
//
// A quota's t is the time until its unit ends; permits in flight have qu="concurrent-requests" and no times.
//
// A limit that joins several has a policy for each, the second named "client-2", and RateLimit speaks of the one that binds.

func policyName(name string, rule int) string {
	if rule == 0 {
		return name
	}
	return name + "-" + strconv.Itoa(rule+1)
}

func policyField(name string, rules []Rule) string {
	var b []byte
	for i, r := range rules {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(strconv.AppendQuote(b, policyName(name, i)), ";q="...)
		b = strconv.AppendInt(b, int64(r.Burst), 10)
		switch {
		case r.TTL != 0:
			b = append(b, `;qu="concurrent-requests"`...)
		case r.Unit == Month: // of no fixed length
		case r.Unit != 0:
			b = strconv.AppendInt(append(b, ";w="...), unitSeconds[r.Unit], 10)
		default:
			b = strconv.AppendInt(append(b, ";w="...), max(1, ceilDiv(mulDiv(int64(r.Burst), r.unit, r.leak), 1_000_000)), 10)
		}
	}
	return string(b)
}

var unitSeconds = [...]int64{Minute: 60, Hour: 3600, Day: 86400, Week: 7 * 86400}

func limitField(name string, d Decision, rules []Rule) string {
	r := rules[d.Rule]
	buf := make([]byte, 0, 64)
	buf = append(strconv.AppendQuote(buf, policyName(name, d.Rule)), ";r="...)
	buf = strconv.AppendInt(buf, int64(d.Remaining), 10)
	next := d.RetryAfter
	switch {
	case r.TTL != 0: // whenever one is given back
		return string(buf)
	case r.Unit != 0:
		next = d.ResetAfter
	case d.Allowed: // until there is one permit more than now
		next = d.ResetAfter - micros(mulDiv(int64(d.Limit-d.Remaining-1), r.unit, r.leak))
	}
	return string(strconv.AppendInt(append(buf, ";t="...), seconds(next), 10))
}

// seconds rounds up and is never 0.
func seconds(d time.Duration) int64 { return max(1, ceilDiv(int64(max(d, 0)), int64(time.Second))) }

// retryAfter is d in whole seconds, at least 1 and never early, spread over a quarter of d more (1 to 30 s), so that those who
// were refused together do not come back together.
func retryAfter(d time.Duration) int64 {
	spread := min(max(d/4, time.Second), 30*time.Second)
	return seconds(d + time.Duration(rand.Int64N(int64(spread))))
}
