package telemetry

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// The histogram's buckets are log-linear over nanoseconds: 4 to the power of two, so an edge is at most 25 % above the one
// before it. Percentiles come from added buckets and never from averaged percentiles.
const (
	subBits    = 2
	sub        = 1 << subBits
	maxExp     = 40 // 2^40 ns is 18 minutes; what is longer counts in the last bucket
	numBuckets = (maxExp-subBits+1)*sub + 1
)

// DurationHistogram counts durations. The zero value is ready; Record is lock-free and does not allocate.
type DurationHistogram struct {
	counts [numBuckets]atomic.Uint64
	sum    atomic.Int64 // nanoseconds

	exported *exported // nil: not to OpenTelemetry
}

// Record counts d; negative counts as 0.
func (h *DurationHistogram) Record(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d))].Add(1)
	h.sum.Add(int64(d))
	if h.exported != nil {
		h.exported.record(d)
	}
}

// Snapshot returns what was recorded. Concurrent records may be in the sum and not yet in the counts, or the reverse.
func (h *DurationHistogram) Snapshot() Buckets {
	var b Buckets
	last := -1
	var counts [numBuckets]uint64
	for i := range h.counts {
		if counts[i] = h.counts[i].Load(); counts[i] > 0 {
			last = i
		}
	}
	b.Counts = append(b.Counts, counts[:last+1]...)
	b.Sum = time.Duration(h.sum.Load()).Seconds()
	return b
}

// Buckets is a distribution of durations that can be added to another, sent as JSON and asked for a quantile.
type Buckets struct {
	Counts []uint64 `json:"counts"` // per bucket of the fixed log-linear ladder; trailing zeros are left out
	Sum    float64  `json:"sum"`    // seconds
}

// Count is the number of durations recorded.
func (b Buckets) Count() uint64 {
	var n uint64
	for _, c := range b.Counts {
		n += c
	}
	return n
}

// Add returns b and c together.
func (b Buckets) Add(c Buckets) Buckets {
	long, short := b.Counts, c.Counts
	if len(short) > len(long) {
		long, short = short, long
	}
	counts := append([]uint64(nil), long...)
	for i, n := range short {
		counts[i] += n
	}
	return Buckets{Counts: counts, Sum: b.Sum + c.Sum}
}

// Quantile returns the upper edge, in seconds, of the bucket that holds the q-quantile (0 ≤ q ≤ 1): at most 25 % above the
// true one. An empty distribution gives 0.
func (b Buckets) Quantile(q float64) float64 {
	total := b.Count()
	if total == 0 {
		return 0
	}
	rank := max(1, uint64(math.Ceil(q*float64(total))))
	var seen uint64
	for i, n := range b.Counts {
		if seen += n; seen >= rank {
			return upperEdge(i)
		}
	}
	return upperEdge(len(b.Counts) - 1)
}

// below returns how many were at or under the bucket edge of the given index.
func (b Buckets) below(index int) uint64 {
	var n uint64
	for i, c := range b.Counts {
		if i > index {
			break
		}
		n += c
	}
	return n
}

func bucketOf(ns uint64) int {
	if ns < sub {
		return int(ns)
	}
	exp := bits.Len64(ns) - 1
	if exp >= maxExp {
		return numBuckets - 1
	}
	return (exp-subBits+1)*sub + int(ns>>(exp-subBits))&(sub-1)
}

// upperEdge is the largest value, in seconds, that counts in bucket i.
func upperEdge(i int) float64 {
	if i < sub {
		return float64(i) / 1e9
	}
	exp := i/sub + subBits - 1
	m := uint64(i%sub) + sub + 1
	return float64(m<<(exp-subBits)-1) / 1e9
}

// Sub returns what b counts beyond earlier, an older snapshot of the same distribution. A bucket that shrank, because a
// process has gone, counts as empty.
func (b Buckets) Sub(earlier Buckets) Buckets {
	counts := append([]uint64(nil), b.Counts...)
	for i, n := range earlier.Counts {
		if i < len(counts) {
			counts[i] -= min(n, counts[i])
		}
	}
	return Buckets{Counts: counts, Sum: max(0, b.Sum-earlier.Sum)}
}
