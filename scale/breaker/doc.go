// Package breaker stops calling what does not work, and finds out when it works again.
//
// A [Breaker] stands in front of one dependency. While it is [Closed], calls pass and their outcomes are counted over a
// rolling window; once enough of them failed, or were slow, it is [Open] and refuses at once, with an [*OpenError] that
// says when it will try again. Then it is [HalfOpen]: a few calls pass as probes. If all succeed it closes, if one fails
// it opens again. [Do] guards any function, [Transport] an HTTP client, with [PerHost] a breaker for each host.
//
// # What counts
//
//   - An error is a failure, unless Options.IsFailure says otherwise. So are a panic and runtime.Goexit, which are passed
//     on untouched. A context's deadline that passes during the call is a failure: the dependency did not make it.
//   - A call that took Options.SlowCall or longer is slow, whether it succeeded or not.
//   - The caller's cancellation, a refusal by another breaker further in and what Options.IsIgnored names count as nothing.
//   - The dependency's own refusal (429, or 503 with Retry-After; see Options.IsRefusal) is neither success nor failure
//     either: a service that sheds most of its load as designed still does as much as it can, and cutting it off would
//     lose that. It feeds the throttle.
//
// Outcomes count when a call ends. A call that began before the breaker last changed its state does not count any more.
//
// # The throttle
//
// While a dependency refuses, a closed breaker refuses some calls itself, with probability
//
//	max(0, (requests - 2*accepts) / (requests + 1))
//
// over the last 30 s, where accepts are the calls that the dependency did not refuse (Site Reliability Engineering,
// O'Reilly 2016, chapter 21, "Client-Side Throttling"). The dependency then sees about two calls for each that it can
// serve, however many there are. The probability is capped at Options.MaxThrottle: without a cap, a client that shares
// the dependency with others, or one that comes out of a full outage, would fall almost silent.
//
// # Limits
//
// A breaker is local to its process and shares nothing. It does not cut calls short: a deadline is the context's. A
// probe that overruns Options.ProbeTimeout counts as failed from then on, but goes on running. Of an HTTP response only
// the status and the time until its header came count, not its body.
//
// The states and their transitions are those of github.com/sony/gobreaker, which is asked only when a state may have to
// change: a call through a closed breaker takes one short lock, at its end, and does not allocate.
package breaker
