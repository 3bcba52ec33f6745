// Package ratelimit decides who may do how much: in one process, or over a whole fleet with package redislimit.
//
//	perClient, err := ratelimit.New("client", ratelimit.PerSecond(50).Burst(100), ratelimit.Options{Store: redislimit.New(rdb)})
//	handler = ratelimit.Middleware(perClient, ratelimit.ClientIP())(handler)
//
// # Limits
//
// A [Limit] is data. [PerSecond] and [Per] are rates with a burst, [Calendar] is a quota for a unit of the calendar, [InFlight] bounds
// how many are at it at once. [Limit.And] joins them: they are decided together, in one round trip, and a request that one of them
// refuses takes from none. Options.LimitFor gives each key its own, by plan or tenant, out of settings that may change while the
// program runs.
//
// # What it guarantees
//
// A key is granted at most burst + ⌊rate·t⌋ permits in any time t, by the store's clock: for redislimit that of Redis, so the
// clocks of the processes do not matter, nor how many there are or how they die. The arithmetic is in whole numbers and
// loses nothing (see [Rule.Units]). A refusal takes no permits, however often it is asked for, and its RetryAfter is the
// exact time after which the same request is granted if nobody else takes; of permits in flight it is a second at most, since they
// may be given back at any time. When a limit changes what is stored is cut to the new one.
//
// With Options.Lease = E the bound is burst + rate·(t + E), the excess being the permits that processes took in advance. A process
// that needs d permits a second of a key then asks the store once for min(d·E, burst/4) of them: with E = 250 ms under 5 % of the
// requests cost a trip where a process sees 80 a second of a key or more, and its burst is at least as large. One that sees less
// than 8 a second asks for each.
//
// A reply that is lost on its way, and asked for again, has taken its permits: losses admit less, never more. After a
// failover to a replica that lags, or a step of Redis's clock, a key may be granted burst + rate·(lag + step) more.
//
// # What a decision costs
//
// In one process a fraction of a microsecond and no allocation. On Redis one script, and nothing at all for a key that was just
// refused: refusals are remembered for their RetryAfter, at most a second.
//
// Memory is bounded. Keys that have drained go away, and a flood of made-up keys displaces its own kind before a key that has
// used up its limit; see [Memory].
//
// # When the store does not answer
//
// A decision waits at most Options.Timeout (50 ms), then Options.OnError decides: [Local] holds the limit in each process, at a
// share of it if Options.Processes says how many there are; so a fleet is granted up to its processes × the share's burst in addition
// when the store goes, and as much again from the store, which does not learn of it, when it comes back. [Deny] refuses. Once
// Redis is known to be gone the breaker of scale/redisconn fails at once, and no decision waits for it. Stats counts each of these.
//
// # Somebody else's limits
//
// [Transport] keeps an HTTP client within a limit, and waits when the other side says so (Retry-After, RateLimit).
//
// # What it does not do
//
// It does not protect a service from more load than it can carry, which depends on what requests cost and not on who sends them:
// that is scale/overload. It does not queue: [Limiter.Wait] is for clients of other people's services, and a server refuses. A
// limiter in front of health probes gets a healthy process killed; give those the key "".
package ratelimit
