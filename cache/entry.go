package cache

import (
	"strings"

	"github.com/fairlead/fairlead/pool/causal"
)

// entry is a value in memory. It does not change.
type entry[V any] struct {
	value  V
	err    error // the loader's "not found"; value means nothing
	absent bool  // there is no such key; err may be nil where LoadMany left it out

	id    string // its record in the remote, empty where it is only here
	slot  *fence // what an invalidation of the key moves,
	gen   uint32 // and where that stood before the load began
	part  uint8  // of the counter of hits
	epoch uint64 // of the link, noted then too
	birth string // a reading of the clock from before the load began
	token []position

	loaded, fresh, revalidate, dead int64 // nanoseconds on the cache's clock: when its load began, and where its states end
}

// valid says whether no invalidation heard of came after the load began.
func (e *entry[V]) valid() bool { return e.slot.load() == e.gen }

// saw raises what the reader has seen to what the value was read from.
func (e *entry[V]) saw(s *causal.Scope) {
	for _, p := range e.token {
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
