// Package causal lets a read see every write that came before it, on whichever process, machine and replica it lands.
//
// A write on a database has a position there (PostgreSQL: timeline and WAL position). A [Token] is a set of such positions,
// one a system; a [Scope], found in a context, gathers those that a request wrote and read, and a read through that context
// is answered only from something that has come at least as far. The token travels with the client to its next request: in
// its session, in a cookie ([Middleware]), in a header between services, or in a job's arguments:
//
//	token, err := causal.Token(ctx)              // after the write
//	ctx, err = causal.AtLeast(ctx, token)        // where the job runs: its reads see the write
//
// The parts of this module that hold data take part by themselves: pool fills and honours the scope, cache carries it
// through its entries, session keeps it. Another store takes part through [Scope.Domain]. The package needs nothing but the
// standard library.
//
// What is not promised: a client that keeps neither its cookies nor a header has no guarantee; two clients that talk to each
// other by another road must hand the token over themselves.
//
// Positions are compared without a clock, but for one case: if the position of a write cannot be found out in time, the
// token says instead until when, 10 s ahead by the wall clock of its process, reads have to use the authority (the entry
// "*=" and a unix time). The clocks of the processes that share tokens are expected to agree within a few seconds, as NTP
// keeps them: one that is ahead by more ends the demand so much earlier, one that is behind keeps to the primary longer.
//
// The idea is that of the session guarantees of Terry et al., "Session Guarantees for Weakly Consistent Replicated Data"
// (PDIS 1994): read your writes and monotonic reads.
package causal
