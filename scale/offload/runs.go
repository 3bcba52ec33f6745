package offload

import (
	"slices"
	"time"
)

// runs are how long the last tasks took, to know their median.
type runs struct {
	took   [64]time.Duration
	n      int
	median time.Duration // 0 until there are enough
	last   time.Time     // when the last ended
}

const minRuns = 8 // fewer say nothing

func (r *runs) add(now time.Time, d time.Duration) {
	r.took[r.n%len(r.took)] = d
	r.n++
	r.last = now
	if r.n < minRuns {
		return
	}
	sorted := r.took
	s := sorted[:min(r.n, len(r.took))]
	slices.Sort(s)
	r.median = s[len(s)/2]
}
