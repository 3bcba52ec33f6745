package offload

import (
	"runtime/metrics"
	"sync"
	"time"
)

// pauses watches how long the garbage collector takes to stop all goroutines. It waits for each to come to a safe point, and a
// niced thread takes long to get there on a busy machine, which holds up everybody.
type pauses struct {
	mu     sync.Mutex
	next   time.Time
	before []uint64
	warned bool
}

const (
	pausePeriod = 10 * time.Second
	pauseBound  = 5 * time.Millisecond
	minPauses   = 20
)

// look tells warn, once, if the 99th percentile since the last look is above the bound.
func (p *pauses) look(now time.Time, warn func(p99 time.Duration)) {
	if !p.mu.TryLock() {
		return
	}
	defer p.mu.Unlock()
	if p.warned || now.Before(p.next) {
		return
	}
	p.next = now.Add(pausePeriod)
	sample := []metrics.Sample{{Name: "/sched/pauses/stopping/gc:seconds"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindFloat64Histogram {
		return
	}
	h := sample[0].Value.Float64Histogram()
	if p99, ok := p.since(h.Counts, h.Buckets); ok && p99 > pauseBound {
		p.warned = true
		warn(p99)
	}
}

// since returns the 99th percentile of what was counted since the last call, if that is enough to tell.
func (p *pauses) since(counts []uint64, edges []float64) (time.Duration, bool) {
	before := p.before
	p.before = append([]uint64(nil), counts...)
	if len(before) != len(counts) {
		return 0, false
	}
	var total, seen uint64
	for i, n := range counts {
		total += n - before[i]
	}
	if total < minPauses {
		return 0, false
	}
	for i, n := range counts {
		if seen += n - before[i]; float64(seen) >= 0.99*float64(total) {
			return time.Duration(max(0, edges[i]) * float64(time.Second)), true
		}
	}
	return 0, false
}
