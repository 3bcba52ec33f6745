// Package overload keeps a service at its best while more is asked of it than it can do: it finds out how many requests the
// service can work on at a time, lets no more in, and turns the rest away early and cheaply, the least important first.
//
//	limiter, err := overload.New("http", overload.Options{})
//	...
//	http.ListenAndServe(":8080", limiter.Middleware(mux))
//
// Middleware guards an HTTP service; [Limiter.Acquire] and [Release] guard anything else. A refusal is 503 with Retry-After,
// spread so that clients do not return together, and a problem+json body.
//
// # What it guarantees
//
// At ten times the capacity the service still does at least 95 % of what it does at its peak, in time for its clients. At
// 0.8 of its capacity, with requests of constant length, or for slots of exponentially distributed length, at most 0.5 % are refused. A second after
// the load has gone none is. These are means over seconds, once the limiter has seen a few seconds of load; uneven requests
// make short stretches vary. The tests of this package measure it with this code in virtual time, for a service that has slots
// (connections, disks) and for one that has processors, with one limiter and with four that share a bottleneck and know nothing
// of each other, through spikes, cold starts and losses of half the capacity.
//
// Within a priority the permits are shared equally by key, by default the client's address: who asks for more than an equal
// share gets what the others leave. A request of a higher priority never waits for one of a lower that has not begun.
//
// # How it works: the limit
//
// The limit (limit.go) only keeps work that has begun from piling up. A service with too few requests inside is idle in part;
// with too many they wait for each other inside, where nobody can turn them away, until every answer comes too late. Between
// the two is the knee, and by Little's law it is at X·R requests: X the requests done a second when the service is saturated, R
// the time one takes that waits for nobody inside.
//
// Time is cut into windows of 100 ms to 3.2 s, long enough for 32 requests. X is counted. The mean time inside comes from
// Little's law too (the mean number inside ÷ X), and R is the lowest of its last eight estimates. Where the limit does not
// bind these are simply measured, and the limit stays at twice what has run inside or Options.Initial, so that bursts pass.
// Where it does bind it is set to X·R·1.25 + 2, and the time inside is what the limit makes it; so every 1.6 s or more a probe
// lowers the limit to 0.8·X·R for a window. If requests then become faster there was a queue inside, R comes down, and the
// next window looks lower still. If throughput falls and they do not become faster, the service itself has slowed down, and R is
// learned anew. While throughput grows and the time does not, the limit doubles.
//
// Windows and probes begin at multiples of the wall clock, so that several processes in front of one bottleneck probe at the
// same moment. (A process that probed alone would find the others' queue and take it for the service.)
//
// Why not TCP Vegas or a gradient, as other libraries: they take the lowest or the long-term time for R. Under a lasting
// overload that drifts upwards with the queue they are to prevent, and with several processes on one machine nothing stops
// it: with four on two cores at ten times the capacity, Vegas behind the same queue does nothing in time, in the tests here.
//
// # How it works: the queue
//
// The queue (queue.go) does the refusing. A request that finds no permit waits, for 50 ms at most or a quarter of what clients
// wait for an answer. So a burst is smoothed and an overload refused. It is served by priority, then in turns by key, then by
// age. When the line of one key has not been empty for 100 ms it stands: more is asked than can be done, and waiting only adds to
// everybody's time. Then each may wait for 10 ms and the newest is served first. Other keys and priorities keep their normal
// wait. A request that could not be done by its deadline, going by the mean time of the handler and twice its deviation, is
// refused without being begun.
//
// How long clients wait (their patience) is learned: from the deadlines of the requests' contexts, and while many leave, from
// when they leave. It bounds the time that the limit aims at to 0.6 of it.
//
// # Other signals
//
// When more than 95 % of GOMEMLIMIT would be in use even after a garbage collection, sheddable requests are refused. Nothing
// else moves the limit: scheduling latency and waits for a pool are in the time inside already.
//
// # What it does not do
//
// It does not help against work of which a single request is too much; nor against attackers with many addresses, who each get
// their share. It knows one process: other processes are known only by the time they cost.
//
// Known limits:
//
//   - Where a request takes more than half of the clients' patience even when nothing waits (55 ms of 100) there is little room:
//     goodput under overload is between half and 85 % of the capacity.
//   - At a cold start at ten times the capacity a service that has slots loses nothing; one that computes is unsteady
//     for two to five seconds, and may do next to nothing in one of them.
//   - With very uneven requests (one in ten takes fifteen times as long), and on processors already with exponentially
//     distributed ones, 1 to 2 % may be refused at 0.8 of the capacity.
//   - Four processes in front of the same slots keep 88 to 97 % of the capacity under overload.
//   - A cold step to hundreds of requests a second that each wait half a second for something that is not scarce meets a limit
//     of 32 and is refused for the most part, for up to ten seconds, until the limit has grown. Set Options.Initial.
//   - When what it depends on becomes ten times as slow and clients are patient, it takes the time for a queue, and for up to
//     nine seconds uses a part only of the throughput that is left.
//   - Several processes that share a bottleneck need to see deadlines or clients' departures, which means contexts that end.
//
// A context that ends is also how late answers are noticed: do not detach a request's context outside the limiter.
//
// The decision takes well under a microsecond and one allocation while nobody waits.
package overload
