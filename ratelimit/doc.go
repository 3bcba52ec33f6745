// Package ratelimit decides who may do how much: in one process, or over a whole fleet with package redislimit.
//
//	perClient, err := ratelimit.New("client", ratelimit.PerSecond(50).Burst(100), ratelimit.Options{Store: redislimit.New(rdb)})
//	handler = ratelimit.Middleware(perClient, ratelimit.ClientIP())(handler)
//
// # What it guarantees
//
// A key is granted at most burst + ⌊rate·t⌋ permits in any time t, by the store's clock: for redislimit that of Redis, so the
// clocks of the processes do not matter, nor how many there are or how they die. The arithmetic is in whole numbers and
// loses nothing (see [Rule.Units]). A refusal takes no permits, however often it is asked for, and its RetryAfter is the
// exact time after which the same request is granted if nobody else takes. Limits joined with [Limit.And] are decided
// together, in one round trip, and a request that one of them refuses takes from none.
//
// A reply that is lost on its way, and asked for again, has taken its permits: losses admit less, never more. After a
// failover to a replica that lags, or a step of Redis's clock, a key may be granted burst + rate·(lag + step) more.
//
// # What a decision costs
//
// In one process a fraction of a microsecond and no allocation. On Redis one script on one key, and nothing at all for a key that
// was just refused: refusals are remembered for their RetryAfter, at most a second.
//
// Memory is bounded. Keys that have drained go away, and a flood of made-up keys displaces its own kind before a key that has
// used up its limit; see [Memory].
//
// # When the store does not answer
//
// A decision waits at most Options.Timeout (50 ms), then Options.OnError decides: [Local] holds the limit in each process, at a
// share of it if Options.Processes says how many there are; so a fleet is granted up to its processes × the share's burst in addition
// when the store goes, and as much again from the store, which does not learn of it, when it comes back. [Deny] refuses. One
// failure is forgiven at once; after more, the store is tried by one request at a time, at growing intervals up to half a second,
// and all others are decided without delay. Stats counts each of these.
//
// # What it does not do
//
// It does not protect a service from more load than it can carry, which depends on what requests cost and not on who sends them:
// that is scale/overload. It does not queue: [Limiter.Wait] is for clients of other people's services, and a server refuses. A
// limiter in front of health probes gets a healthy process killed; give those the key "".
package ratelimit
