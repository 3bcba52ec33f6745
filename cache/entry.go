package cache

import (
	"strings"
	"sync/atomic"

	"github.com/fairlead/fairlead/pool/causal"
)

// entry is a value in memory. It does not change. What few entries have, or few readers look at, is in more.
type entry[V any] struct {
	// What every hit looks at comes first.
	early  int64  // from here on a hit may begin a refresh; see loaded
	gen    uint32 // where slot stood before the load began
	absent bool   // there is no such key; more.err may be nil where LoadMany left it out
	tagged bool   // there are more.marks
	slot   *fence // what an invalidation of the key moves
	since  uint64 // where the tags' stamps stood before the load began
	epoch  uint64 // of the link, noted then too
	more   *more  // nil where none of it is known
	value  V

	loaded, fresh, revalidate, dead int64 // nanoseconds on the cache's clock: when the load began, and where the states end
}

// more is the rest of an entry.
type more struct {
	err   error  // the loader's "not found"; the value means nothing
	id    string // the record in the remote, empty where it is only here
	birth string // a reading of the clock from before the load began, heard or known of
	heard string // such a reading, up to which all invalidations had been heard: stamps of tags are compared with it
	token []position
	marks []*atomic.Uint64 // where the stamps of its tags are
}

var nothingMore more

func (e *entry[V]) rest() *more {
	if e.more == nil {
		return &nothingMore
	}
	return e.more
}

// valid says whether no invalidation heard of came after the load began.
func (c *Cache[K, V]) valid(e *entry[V]) bool {
	return e.slot.load() == e.gen && e.since >= c.stamps.floor.Load() && !(e.tagged && spoilt(e.more.marks, e.since))
}

// nameless says that LoadMany found no such key: the loader has to say with which error that is reported.
func (e *entry[V]) nameless() bool { return e.absent && e.rest().err == nil }

// err is what a Get returns with the entry.
func (e *entry[V]) err() error {
	if !e.absent {
		return nil
	}
	return e.rest().err
}

// saw raises what the reader has seen to what the value was read from.
func (e *entry[V]) saw(s *causal.Scope) {
	if e.more == nil {
		return
	}
	for _, p := range e.more.token {
		s.Domain(p.tag).Saw(p.at)
	}
}

// position is one part of a causal token.
type position struct{ tag, at string }

func positions(token string) []position {
	if token == "" {
		return nil
	}
	var ps []position
	for part := range strings.SplitSeq(token, ",") {
		tag, at, _ := strings.Cut(part, "=")
		ps = append(ps, position{tag, at})
	}
	return ps
}

// without returns token without the parts whose tag drop accepts.
func without(token string, drop func(tag string) bool) string {
	if token == "" {
		return ""
	}
	var kept []string
	for part := range strings.SplitSeq(token, ",") {
		if tag, _, _ := strings.Cut(part, "="); !drop(tag) {
			kept = append(kept, part)
		}
	}
	return strings.Join(kept, ",")
}
