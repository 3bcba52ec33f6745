package breaker

import "time"

// window adds up what happened in a rolling span of time, in buckets that are written when a call ends. (Counted where a
// call began, calls longer than the window would never count.) Times are since the breaker's epoch. It is not safe for
// concurrent use.
type window struct {
	width   time.Duration // of a bucket
	last    int64         // number of the newest bucket since the epoch
	buckets []tally
	sum     tally
}

// tally is what a window counts: a dependency's calls, how many failed and how many were slow; or for the throttle the
// requests, how many the dependency accepted and how many it refused.
type tally [3]uint64

func newWindow(span time.Duration, buckets int) window {
	return window{width: max(1, span/time.Duration(buckets)), buckets: make([]tally, buckets)}
}

func (w *window) add(now time.Duration, t tally) {
	w.roll(now)
	b := &w.buckets[w.last%int64(len(w.buckets))]
	for i, n := range t {
		b[i] += n
		w.sum[i] += n
	}
}

func (w *window) total(now time.Duration) tally {
	w.roll(now)
	return w.sum
}

// roll lets go of what has become too old. A now that is behind, taken before the lock, belongs to the newest bucket.
func (w *window) roll(now time.Duration) {
	number := int64(now / w.width)
	if number-w.last >= int64(len(w.buckets)) {
		w.clear()
		w.last = number
	}
	for w.last < number {
		w.last++
		b := &w.buckets[w.last%int64(len(w.buckets))]
		for i, n := range b {
			w.sum[i] -= n
		}
		*b = tally{}
	}
}

func (w *window) clear() {
	clear(w.buckets)
	w.sum = tally{}
}
