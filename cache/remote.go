package cache

import (
	"context"
	"time"
)

// Remote is the tier that several processes share, and the way they hear of invalidations. All methods take a space, the
// name of a cache: spaces do not see each other. They must be safe for concurrent use. cachetest.Run checks an
// implementation; rediscache is the one of this module.
//
// A Remote never decides whether a value is right: it keeps four things a key (a record, a lease, a token and its part in
// the space's clock) and, for each tag and for the whole space, a stamp: the reading of the clock at which it was invalidated
// last. It changes them atomically as its methods say. No wall clock takes part.
type Remote interface {
	// Get answers each ask, in their order. It reads the key's record and, where the ask brings a lease and there is no
	// record (or only the one named Instead), takes the lease unless another holds it. An ask with the lease that stands
	// renews it. An ask with Renew does only that: a lease that has ended it must not take.
	Get(ctx context.Context, space string, asks []Ask) ([]Record, error)

	// Put stores each fill whose lease still stands, ends that lease and reports which were stored, in their order. A fill
	// without data only ends its lease. A tag of the fill that has no stamp gets the
	// fill's Heard for one.
	Put(ctx context.Context, space string, fills []Fill) (stored []bool, err error)

	// Invalidate deletes record and lease of each key, merges the token into the key's (as causal.Merge does) for
	// TokenTTL, then advances the space's clock by one, stamps the tags, or with All the space, with the new reading, merges the
	// token into that of the space if there are tags or All, and sends every listener the Event that it returns. If it fails the
	// outcome is unknown. Doing it twice does no harm.
	Invalidate(ctx context.Context, space string, inv Invalidation) (Event, error)

	// Listen hands events to handle, one at a time and in the order of the clock, until ctx ends. It reconnects by itself,
	// and says when something may have been missed: see Event. Its error is that of ctx.
	Listen(ctx context.Context, space string, handle func(Event)) error
}

// Ask is one key asked of a [Remote].
type Ask struct {
	Key string
	// Lease, if not empty, is the lease to take or to renew: text nobody else uses, 16 bytes of [0-9A-Za-z_-].
	Lease string
	// Hold is how long the lease stands unless it is renewed.
	Hold time.Duration
	// Instead is the ID of a record that does not count as one: the lease is for replacing it.
	Instead string
	// Renew says that the lease was held before: it is renewed if it still stands, and otherwise not taken again. An
	// invalidation may have ended it, and a load that began earlier must not get it back.
	Renew bool
}

// Record is the answer to an [Ask].
type Record struct {
	// ID is the lease that the record was stored with, empty where there is none.
	ID string
	// Data is what was stored.
	Data []byte
	// Left is how long the record will stay.
	Left time.Duration
	// Tags are what it was stored with.
	Tags []string
	// Stamp is the greatest stamp of the space and of the record's tags, read after the record: empty where neither was ever
	// invalidated, and text greater than any reading where a tag has no stamp, for it must have been lost.
	Stamp string
	// Leased says that the asker now holds the lease it asked for.
	Leased bool
	// Token is the key's causal token; only where Leased.
	Token string
}

// Fill is a value for a [Remote].
type Fill struct {
	Key   string
	Lease string
	// Data is what to store; nil stores nothing.
	Data []byte
	// TTL is how long it stays.
	TTL time.Duration
	// Tags are the value's, of up to 200 bytes each.
	Tags []string
	// Heard is a reading of the clock, of before the load, or empty.
	Heard string
}

// Invalidation says which keys no longer have the value they had, or which tags the values that are no longer right.
type Invalidation struct {
	Keys []string
	Tags []string
	All  bool // every value of the space
	// Token is what the writer has written, as causal.Token writes it, or empty.
	Token string
	// TokenTTL is how long a Remote keeps Token.
	TokenTTL time.Duration
	// StampTTL is how long a Remote keeps the tags' stamps at least.
	StampTTL time.Duration
	// From tells the sender from others, so that it knows its own.
	From string
}

// Event is what a listener hears.
//
// With Connected false, the connection is lost and what happens now will not be heard. Every other event carries a reading
// of the space's clock, and says that all invalidations up to it, since the last event that was not Connected, have been
// handed over. The clock is an incarnation, text of one fixed width of [0-9A-Za-z] that is greater for a later one, and N,
// which counts from 1 without gaps. A Remote that may have lost its data has to start a new incarnation.
type Event struct {
	Connected   bool
	Incarnation string
	N           uint64
	// Invalidation is the one that made the clock N. Without keys, tags and All the event only reports the clock, which a Remote
	// does after each time it connects, and then again now and then. The first after connecting has the space's token.
	Invalidation Invalidation
}

// Reading returns the clock's reading as text of fixed width that sorts: the incarnation, a dot and N in 16 hexadecimal digits.
// Stamps are written so.
func (e Event) Reading() string { return readingOf(e.Incarnation, e.N) }
