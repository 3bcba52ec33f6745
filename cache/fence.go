package cache

import (
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// A fence counts the invalidations of the keys that fall on it. A load notes the count before it begins, and what it
// brought is good only while the count stands: so an invalidation beats a load by one atomic add, whatever the load is
// doing, and a message that knows only the text of a key need not find its entry. Keys that share a fence cost each other
// a look in the remote, no more.
type fence struct{ gen atomic.Uint32 }

func (f *fence) load() uint32 { return f.gen.Load() }
func (f *fence) move()        { f.gen.Add(1) }

type fences struct {
	seed maphash.Seed
	all  []fence
}

func newFences(maxEntries int) *fences {
	n := min(max(4*maxEntries, 1<<10), 1<<20)
	return &fences{seed: maphash.MakeSeed(), all: make([]fence, 1<<bits.Len(uint(n-1)))}
}

// of returns the fence of a key's text, and the text's hash.
func (f *fences) of(name string) (*fence, uint64) {
	h := maphash.String(f.seed, name)
	return &f.all[h&uint64(len(f.all)-1)], h
}
