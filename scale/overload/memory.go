package overload

import (
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// memory says whether it runs out. What counts is what would remain after a collection: a healthy process comes close to its
// limit before each one, since that is how the collector uses the room it is given.
type memory struct {
	share float64
	read  func() (used, limit uint64)

	mu    sync.Mutex
	until time.Time // the answer holds
	short bool
}

const memoryHolds = 100 * time.Millisecond

func newMemory(share float64) *memory { return &memory{share: share, read: readMemory} }

func (m *memory) runsOut() bool {
	if m.share < 0 {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); now.After(m.until) {
		used, limit := m.read()
		m.short = limit > 0 && float64(used) > m.share*float64(limit)
		m.until = now.Add(memoryHolds)
	}
	return m.short
}

// readMemory returns the memory in use without garbage and free room of the heap, and GOMEMLIMIT, or 0 for none.
func readMemory() (used, limit uint64) {
	l := debug.SetMemoryLimit(-1)
	if l == math.MaxInt64 {
		return 0, 0
	}
	samples := []metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/gc/heap/live:bytes"},
	}
	metrics.Read(samples)
	value := func(i int) uint64 { return samples[i].Value.Uint64() }
	return value(0) - value(1) - value(2) - value(3) - value(4) + min(value(5), value(4)), uint64(l)
}
