package pool

import (
	"math"
	"math/rand/v2"
	"time"
)

// health is how well reads fare on a server: what they are spread by. The node's lock guards it.
type health struct {
	cost   float64   // seconds: moving average of what answers take, quick to rise
	at     time.Time // of cost
	fails  int       // in a row
	bouts  int       // of ejection, without a second's worth of success between
	out    time.Time // ejected until then
	ramped time.Time // since when it takes traffic again; zero: always has
}

const (
	costMemory  = time.Second // after which a cost has decayed to a third
	costRise    = 4           // how much one answer may raise it: a slow query is no slow server
	failsToOut  = 5           // reads in a row that failed for a reason of the server's
	firstOut    = time.Second // for how long it is left out then; doubles up to longestOut
	longestOut  = 30 * time.Second
	slowStart   = 5 * time.Second // in which a server that has come back is given its share
	costAlike   = 2               // costs within this factor are no difference
	leastRamped = 0.05
)

// took notes an answer: the peak EWMA of Finagle's balancer, with a bounded rise.
func (h *health) took(d time.Duration, now time.Time) {
	x := d.Seconds()
	switch {
	case h.at.IsZero() || h.cost == 0:
		h.cost = x
	case x >= h.cost:
		h.cost = min(x, costRise*h.cost+0.0001)
	default:
		w := math.Exp(-now.Sub(h.at).Seconds() / costMemory.Seconds())
		h.cost = h.cost*w + x*(1-w)
	}
	h.at = now
}

func (h *health) latency() time.Duration { return time.Duration(h.cost * float64(time.Second)) }

// succeeded notes a read that the server answered.
func (h *health) succeeded(now time.Time) {
	h.fails = 0
	if h.bouts > 0 && now.Sub(h.out) > slowStart {
		h.bouts = 0
	}
}

// failed notes a read that it did not answer, for a reason of its own, and says whether it is ejected for that now.
func (h *health) failed(now time.Time) bool {
	h.fails++
	if h.fails < failsToOut || now.Before(h.out) {
		return false
	}
	d := min(firstOut<<min(h.bouts, 10), longestOut)
	h.bouts++
	h.fails = 0
	h.out = now.Add(d)
	h.ramped = h.out
	return true
}

// came notes that the server has just become available.
func (h *health) came(now time.Time) {
	*h = health{ramped: now}
}

func (h *health) isOut(now time.Time) bool { return now.Before(h.out) }

// ramp is the share of its traffic that the server is to be given, from nearly 0 to 1.
func (h *health) ramp(now time.Time) float64 {
	if h.ramped.IsZero() {
		return 1
	}
	return min(1, max(leastRamped, now.Sub(h.ramped).Seconds()/slowStart.Seconds()))
}

// spare drops the ejected from the candidates, but never more than half of all, and never the last.
func spare(all []candidate) []candidate {
	out := 0
	for _, c := range all {
		if c.out {
			out++
		}
	}
	if out == 0 {
		return all
	}
	most := len(all) / 2
	kept := all[:0]
	for _, c := range all {
		if c.out && most > 0 {
			most--
			continue
		}
		kept = append(kept, c)
	}
	return kept
}

// pick takes the better of two at random, which spreads load nearly as well as knowing all (Mitzenmacher, 1996): the one with
// the lower product of cost and reads in flight, or if that is much the same, any of the two. One that has just come back is
// passed over at first.
func pick(from []candidate) candidate {
	if len(from) == 1 {
		return from[0]
	}
	i := rand.IntN(len(from))
	j := rand.IntN(len(from) - 1)
	if j >= i {
		j++
	}
	a, b := from[i], from[j]
	if a.ramp != b.ramp && rand.Float64()*max(a.ramp, b.ramp) > min(a.ramp, b.ramp) {
		if a.ramp > b.ramp {
			return a
		}
		return b
	}
	x, y := a.score(), b.score()
	if y*costAlike < x || y <= x && b.busy() < a.busy() {
		return b
	}
	return a
}

func (c *candidate) busy() int64 { return c.node.inUse.Load() + c.node.waiting.Load() }

func (c *candidate) score() float64 { return max(c.cost, 1e-6) * float64(c.busy()+1) }
