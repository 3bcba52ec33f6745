package loadsim

import (
	"slices"
	"sync"
	"time"
)

// Counts is what became of requests.
type Counts struct {
	Offered int
	Good    int // answered before the client left
	Late    int // answered after it
	Refused int
}

// Result is what Run counted, in bins of 100 ms. Offered counts by arrival, the rest by the answer.
type Result struct {
	mu    sync.Mutex
	bins  map[bin]*Counts
	times []served
}

type bin struct {
	tenth int
	class int
}

type served struct {
	at, took time.Duration
}

func (r *Result) offer(at time.Duration, class int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bin(at, class).Offered++
}

func (r *Result) answer(at, now time.Duration, class int, outcome Outcome, inTime bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.bin(now, class)
	switch {
	case outcome == Refused:
		b.Refused++
		return
	case inTime:
		b.Good++
	default:
		b.Late++
	}
	r.times = append(r.times, served{now, now - at})
}

func (r *Result) bin(t time.Duration, class int) *Counts {
	k := bin{int(t / (100 * time.Millisecond)), class}
	if r.bins[k] == nil {
		r.bins[k] = new(Counts)
	}
	return r.bins[k]
}

// Between adds up the bins from one time to another, both whole tenths of a second, of the classes that keep names: of all
// when it is nil.
func (r *Result) Between(from, to time.Duration, keep func(class int) bool) Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sum Counts
	for k, c := range r.bins {
		if t := time.Duration(k.tenth) * 100 * time.Millisecond; t < from || t >= to || keep != nil && !keep(k.class) {
			continue
		}
		sum.Offered += c.Offered
		sum.Good += c.Good
		sum.Late += c.Late
		sum.Refused += c.Refused
	}
	return sum
}

// Quantile is the q-quantile of how long those waited who were served, late or not, between two times. Without any it is 0.
func (r *Result) Quantile(q float64, from, to time.Duration) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var took []time.Duration
	for _, s := range r.times {
		if s.at >= from && s.at < to {
			took = append(took, s.took)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[int(q*float64(len(took)-1))]
}
