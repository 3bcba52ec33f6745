package cache

import (
	"iter"
	"math/rand/v2"
	"sync/atomic"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// Stats is a snapshot of what a cache has done. Every key asked for, by Get, Lookup or GetMany, counts once in Memory,
// Remote, Miss, Stale or Errors, and Gets is their sum.
type Stats struct {
	Gets   uint64 `json:"gets"`
	Memory uint64 `json:"memory" metric:"fairlead.cache.gets,counter,result=memory"` // fresh values from memory
	Remote uint64 `json:"remote" metric:"fairlead.cache.gets,counter,result=remote"` // fresh values from the shared tier
	Miss   uint64 `json:"miss" metric:"fairlead.cache.gets,counter,result=miss"`     // loaded, by this Get or one it joined
	Stale  uint64 `json:"stale" metric:"fairlead.cache.gets,counter,result=stale"`   // stale values, revalidated behind or for want of an origin
	Errors uint64 `json:"errors" metric:"fairlead.cache.gets,counter,result=error"`  // no value, and not "not found" either

	Coalesced        uint64            `json:"coalesced" metric:"fairlead.cache.coalesced,counter"`                 // Gets that joined a load of another
	OwnWrites        uint64            `json:"own_writes" metric:"fairlead.cache.own_write_skips,counter"`          // Gets that passed memory by: the reader's writes were ahead of it
	Loads            uint64            `json:"loads" metric:"fairlead.cache.loads,counter"`                         // keys the origin was asked for
	LoadErrors       uint64            `json:"load_errors" metric:"fairlead.cache.load_errors,counter"`             // of which failed
	LoadTime         telemetry.Buckets `json:"load_time" metric:"fairlead.cache.load.duration,histogram"`           // of calls to the origin
	EarlyRefreshes   uint64            `json:"early_refreshes" metric:"fairlead.cache.early_refreshes,counter"`     // loads behind a hit on a fresh value
	Unverified       uint64            `json:"unverified" metric:"fairlead.cache.unverified,counter"`               // values served stale to spare the origin while the shared tier was away
	Evictions        uint64            `json:"evictions" metric:"fairlead.cache.evictions,counter"`                 // values that made room in memory
	Unshared         uint64            `json:"unshared" metric:"fairlead.cache.unshared,counter"`                   // values that could not be encoded, or were too large
	Refused          uint64            `json:"refused" metric:"fairlead.cache.refused_fills,counter"`               // values invalidated while they were loaded
	Undecodable      uint64            `json:"undecodable" metric:"fairlead.cache.undecodable,counter"`             // records of another schema, or broken
	RemoteErrors     uint64            `json:"remote_errors" metric:"fairlead.cache.remote_errors,counter"`         // failed calls of the shared tier
	Invalidations    uint64            `json:"invalidations" metric:"fairlead.cache.invalidations,counter"`         // keys invalidated here
	TagInvalidations uint64            `json:"tag_invalidations" metric:"fairlead.cache.tag_invalidations,counter"` // tags invalidated here, and calls of InvalidateAll
	Heard            uint64            `json:"heard" metric:"fairlead.cache.heard,counter"`                         // keys and tags whose invalidation elsewhere was heard of
	Replayed         uint64            `json:"replayed" metric:"fairlead.cache.replayed,counter"`                   // keys and tags whose invalidation reached the shared tier late
	Losses           uint64            `json:"losses" metric:"fairlead.cache.losses,counter"`                       // times that messages may have been lost

	Entries   int  `json:"entries" metric:"fairlead.cache.entries,gauge"`   // values in memory
	Pending   int  `json:"pending" metric:"fairlead.cache.pending,gauge"`   // keys and tags whose invalidation waits for the shared tier
	Connected bool `json:"connected" metric:"fairlead.cache.connected,min"` // invalidations are being heard; true without a Remote
}

// counters are what Stats is made of. Hits are spread, so that readers on several processors do not share a cache line.
type counters struct {
	hits [32]struct {
		n atomic.Uint64
		_ [56]byte
	}
	remote, miss, stale, errors             atomic.Uint64
	coalesced, ownWrites, loads, loadErrors atomic.Uint64
	early, unverified, evictions, unshared  atomic.Uint64
	refused, undecodable, remoteErrors      atomic.Uint64
	invalidations, tagInvalidations         atomic.Uint64
	heard, replayed, lossCount              atomic.Uint64
	loadTime                                telemetry.DurationHistogram
}

func (c *counters) hit() { c.hits[rand.Uint32()%32].n.Add(1) }

// Stats returns a snapshot.
func (c *Cache[K, V]) Stats() Stats {
	n := &c.counters
	s := Stats{
		Remote: n.remote.Load(), Miss: n.miss.Load(), Stale: n.stale.Load(), Errors: n.errors.Load(),
		Coalesced: n.coalesced.Load(), OwnWrites: n.ownWrites.Load(),
		Loads: n.loads.Load(), LoadErrors: n.loadErrors.Load(), LoadTime: n.loadTime.Snapshot(),
		EarlyRefreshes: n.early.Load(), Unverified: n.unverified.Load(), Evictions: n.evictions.Load(), Unshared: n.unshared.Load(),
		Refused: n.refused.Load(), Undecodable: n.undecodable.Load(), RemoteErrors: n.remoteErrors.Load(),
		Invalidations: n.invalidations.Load(), TagInvalidations: n.tagInvalidations.Load(), Heard: n.heard.Load(), Replayed: n.replayed.Load(), Losses: n.lossCount.Load(),
		Entries: c.memory.len(), Connected: true,
	}
	for i := range n.hits {
		s.Memory += n.hits[i].n.Load()
	}
	s.Gets = s.Memory + s.Remote + s.Miss + s.Stale + s.Errors
	if c.shared != nil {
		s.Pending = c.shared.pending.len()
		s.Connected = c.shared.link.Load().connected
	}
	return s
}

// Samples returns the numbers of Stats for the page and /metrics.
func (c *Cache[K, V]) Samples() iter.Seq[telemetry.Sample] {
	return telemetry.Samples(c.Stats(), telemetry.Attr{Key: "cache", Value: c.name})
}
