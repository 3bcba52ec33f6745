package cluster

import (
	"math"
	"runtime/metrics"
	"slices"
	"sync"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/sys"
	"github.com/fairlead/fairlead/internal/telemetry"
)

// paceSpan is the least time that a worker's pace is measured over.
const paceSpan = 900 * time.Millisecond

// pace is how busy a worker is: what it used, did and kept waiting over about a second. The zero value is ready.
type pace struct {
	mu       sync.Mutex
	at       time.Time // of the readings below
	cpu      time.Duration
	requests uint64
	sched    []uint64
	last     paceFigures
}

type paceFigures struct {
	cpu   float64 // processors in use
	sched float64 // seconds, p99 of what goroutines that could run waited for a processor
	rps   float64
}

// measure reads the process at now. What is asked for sooner than paceSpan after the last reading is that one's.
func (p *pace) measure(now time.Time, samples []telemetry.Sample) paceFigures {
	p.mu.Lock()
	defer p.mu.Unlock()
	span := now.Sub(p.at)
	if span < paceSpan {
		return p.last
	}
	cpu, requests := sys.CPUTime(), requestsIn(samples)
	latencies := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
	metrics.Read(latencies)
	h := latencies[0].Value.Float64Histogram()
	if !p.at.IsZero() {
		p.last = paceFigures{
			cpu:   (cpu - p.cpu).Seconds() / span.Seconds(),
			sched: quantile(h, p.sched, 0.99),
			rps:   float64(requests-min(requests, p.requests)) / span.Seconds(),
		}
	}
	p.at, p.cpu, p.requests, p.sched = now, cpu, requests, slices.Clone(h.Counts)
	return p.last
}

// requestsIn is how many requests the samples tell of.
func requestsIn(samples []telemetry.Sample) uint64 {
	var n uint64
	for _, s := range samples {
		if s.Name == "http.server.request.duration" && s.Buckets != nil {
			n += s.Buckets.Count()
		}
	}
	return n
}

// quantile is the upper edge of the bucket that holds the q-quantile of what h counts beyond before; of the last bucket,
// which has none, the lower one.
func quantile(h *metrics.Float64Histogram, before []uint64, q float64) float64 {
	counts, total := slices.Clone(h.Counts), uint64(0)
	for i := range counts {
		if i < len(before) {
			counts[i] -= min(counts[i], before[i])
		}
		total += counts[i]
	}
	if total == 0 {
		return 0
	}
	rank, seen := max(1, uint64(math.Ceil(q*float64(total)))), uint64(0)
	for i, n := range counts {
		if seen += n; seen >= rank {
			if edge := h.Buckets[i+1]; !math.IsInf(edge, 1) {
				return edge
			}
			return h.Buckets[i]
		}
	}
	return 0
}
