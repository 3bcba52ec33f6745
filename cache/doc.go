// Package cache is a read-through cache that stays right: typed, in memory, and with a [Remote] (see cache/rediscache) over
// all processes of a service.
//
//	products, err := cache.New("products", loadProduct, cache.Options[int64, Product]{TTL: time.Minute, Remote: rediscache.New(rdb)})
//	p, err := products.Get(ctx, id)
//	err = products.Invalidate(ctx, id) // after the change is committed; InvalidateTag and InvalidateAll for many at once
//
// # What holds
//
// Concurrent misses of a key call the loader once, over all processes while the Remote is reachable. A load runs on a context
// of its own, so that nobody else's cancellation or deadline ends it; a panic in it is an error to those who wait. Each of them
// leaves when its own context ends.
//
// "Began before" below is about the load that brought a value, wherever it ran.
//
//   - Here: after Invalidate(k) has returned, no Get in this process that starts later returns a value whose load began
//     before it. That holds whether or not the Remote answers.
//   - In the shared tier: if Invalidate returned nil, no Get anywhere that asks the Remote returns such a value. A load that
//     was under way cannot put its value there: its lease is gone.
//   - In other processes' memory: while connected, as soon as the invalidation is delivered (milliseconds). Cut off, within
//     the time it takes to notice (3 s with rediscache) and Options.DisconnectedTTL, whatever the TTL.
//   - Loads: one that everybody joins, a key and process; beside it at most one more, which an invalidation has detached. One
//     over all processes while the Remote is reachable and the loader's process renews its lease; a process that dies while
//     loading delays the key by 3 s at most. Nothing but efficiency rests on the lease.
//   - Monotonic: a Get that starts after another returned here never returns a value loaded earlier, while the key stays in
//     memory and unless it is stale, which Lookup tells.
//   - Stale values are never served for a key whose invalidation has been heard of.
//   - Tags and everything: InvalidateTag and InvalidateAll hold here, in the shared tier and in other processes' memory as
//     Invalidate does, but for loads that were under way elsewhere: what they bring may be stored, and is known to be of no use
//     by its clock. A tag is found out only when a value is loaded, so who joined a load that turns out to be too old waits for
//     another one.
//   - Own writes: with a causal scope in the context (session's or causal's middleware opens one and carries it to the client's
//     next request), who invalidated a key never gets an older value, on any process: its scope holds the clock of the
//     invalidation, and a process that has not heard that far asks the Remote instead of its memory.
//   - Replicas: what the scope had written is kept with the key for ten minutes, and a load of it runs in a scope that demands
//     as much, so that a lagging replica cannot bring the old value back. Without a scope in Invalidate's context nothing is
//     known of the database's position, and only the primary is safe to load from.
//
// Not promised is linearizability with the database: between a commit and the end of Invalidate others get the old value.
//
// # When things fail
//
// The Remote does not answer: after Options.RemoteTimeout a Get goes on without it (rediscache's client refuses at once what would
// go to a server that answers nobody). Values are loaded for memory only and trusted there for DisconnectedTTL; loads are still
// shared within the process. At most 32 loads at a time are of keys that memory still has: beyond them the value is served
// unverified, marked stale, so that the origin need not stand up to all that the Remote did. Invalidate returns an error, has done
// its work here, and is sent again until the Remote confirms; until then this process neither reads nor stores those keys there,
// nor what a load that was under way brought, and who wrote gets its values from the origin. Another process that does reach the
// Remote is not told before that. What waits to be sent is kept in memory, once a key: beyond 100,000 keys and tags one
// invalidation of everything stands for them all. It ends with the process.
//
// Messages may have been lost: every value in memory is checked with the Remote before it is served again, which a value
// that is still the same survives. A reconnect does not load anything anew.
//
// The origin fails: a value within Options.StaleIfError is served, marked stale; otherwise the error. For 50 ms, doubling up to
// 5 s, that goes on without asking the origin. An origin that hangs has failed at Options.LoadTimeout, but where there is no
// stale value to serve the next Get may try again at once. An invalidation ends the pause. Nobody waits longer than
// Options.HardTimeout, nor than SoftTimeout if a stale value can be served; the load goes on, and what it brings late is kept.
//
// The database does not tell the position of a write that the context's scope made: a Get or an Invalidate that needs it, and a
// load that wrote, wait a second for it and then take it as unknown, so that loads ask the primary.
//
// The Remote lost what it had acknowledged (an asynchronous failover, a restart from a snapshot): an invalidation it lost is
// undone until every process has noticed the new incarnation. Each then sends again what it invalidated in the last minute,
// (everything, if that was more than 10,000 keys), and loads from primaries for ten minutes, for the tokens may be lost too. An
// invalidation by a process that has ended meanwhile is not sent again. This is the one exception to the above.
//
// What lies in the Remote and cannot be read (another schema, cut off, larger than Options.MaxValueSize once it is unpacked) is a
// miss, counted, and replaced.
//
// # Costs
//
// A hit in memory takes no lock of this package and allocates nothing: up to twice the time of bare otter, whose storage it
// is, and about as much again where a causal scope is in the context. A miss costs some microseconds and a goroutine; with a Remote
// a read, and if that has nothing, a lease and a fill; a value with tags one round trip more to read. Values are shared between
// readers and read-only, unless Options.Clone copies them.
package cache
