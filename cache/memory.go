package cache

import (
	"sync/atomic"

	"github.com/maypok86/otter/v2"
)

// memory is the storage of entries, bounded by their number: otter's W-TinyLFU, which a crawler over the whole catalogue
// does not flush. Expiry is ours: an entry outlives its TTL as a stale one.
type memory[K comparable, V any] struct {
	otter *otter.Cache[K, *entry[V]]
}

func newMemory[K comparable, V any](maxEntries int, evictions *atomic.Uint64) (memory[K, V], error) {
	o, err := otter.New(&otter.Options[K, *entry[V]]{
		MaximumSize: maxEntries,
		OnAtomicDeletion: func(e otter.DeletionEvent[K, *entry[V]]) {
			if e.WasEvicted() {
				evictions.Add(1)
			}
		},
	})
	return memory[K, V]{o}, err
}

func (m memory[K, V]) get(key K) *entry[V] {
	e, _ := m.otter.GetIfPresent(key)
	return e
}

func (m memory[K, V]) set(key K, e *entry[V]) { m.otter.Set(key, e) }
func (m memory[K, V]) remove(key K)           { m.otter.Invalidate(key) }
func (m memory[K, V]) clear()                 { m.otter.InvalidateAll() }
func (m memory[K, V]) len() int               { return m.otter.EstimatedSize() }
