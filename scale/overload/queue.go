package overload

import (
	"container/heap"
	"math"
)

// queue holds the requests that wait for a permit: by priority, then fairly by key, then by age.
//
// Keys share a priority by start-time fair queueing (Goyal, Vin, Cheng 1996): each has a tag, the number of the round its
// next request belongs to; the lowest is served and moves on by one, and a key that comes anew begins in the current round.
// So each key that waits is served once a round, however many requests it has waiting.
//
// Within a key the oldest comes first. A key that has waited for a while without a break (it stands) has more requests than
// it will get served: then the newest comes first, so that those served are ones whose clients are still there, and each may
// wait only a little.
type queue struct {
	classes  [3]class // by priority, Sheddable first
	waiting  int
	standing float64 // s after which a key stands
}

type class struct {
	priority Priority
	flows    map[string]*flow
	heap     flows
	round    float64
}

// flow is what waits under one key. An empty one stays for a while, so that it cannot come back for a second turn in the same
// round.
type flow struct {
	key        string
	tag        float64
	index      int // in the heap
	head, tail *waiter
	n          int
	since      float64 // when it was last empty
	turn       float64 // when it was last served
}

type waiter struct {
	arrived  float64
	since    float64       // began to wait
	deadline float64       // +Inf is none
	decided  chan struct{} // closed when a permit was given, or refusal set
	refusal  *refusal

	permit *permit

	flow       *flow // nil when it has left the queue
	class      *class
	prev, next *waiter
}

type flows []*flow

func (f flows) Len() int           { return len(f) }
func (f flows) Less(i, j int) bool { return f[i].tag < f[j].tag }
func (f flows) Swap(i, j int) {
	f[i], f[j] = f[j], f[i]
	f[i].index, f[j].index = i, j
}
func (f *flows) Push(x any) {
	x.(*flow).index = len(*f)
	*f = append(*f, x.(*flow))
}
func (f *flows) Pop() any {
	old := *f
	x := old[len(old)-1]
	old[len(old)-1] = nil
	*f = old[:len(old)-1]
	return x
}

func newQueue(standing float64) queue {
	q := queue{standing: standing}
	for i := range q.classes {
		q.classes[i] = class{priority: Priority(i) + Sheddable, flows: make(map[string]*flow)}
	}
	return q
}

func (q *queue) class(p Priority) *class { return &q.classes[p.index()] }

// push adds a waiter at the end of its key's line.
func (q *queue) push(now float64, w *waiter, p Priority, key string) {
	c := q.class(p)
	f := c.flows[key]
	if f == nil {
		f = &flow{key: key, tag: c.round}
		c.flows[key] = f
		heap.Push(&c.heap, f)
	}
	if f.n == 0 {
		f.since = now
	}
	w.class, w.flow, w.prev = c, f, f.tail
	if f.tail != nil {
		f.tail.next = w
	} else {
		f.head = w
	}
	f.tail = w
	f.n++
	q.waiting++
}

// remove takes a waiter out, wherever it stands.
func (q *queue) remove(w *waiter) {
	f := w.flow
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		f.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		f.tail = w.prev
	}
	w.prev, w.next, w.flow = nil, nil, nil
	f.n--
	q.waiting--
}

// pop takes out whoever comes next, nil when none waits. served says afterwards that it got its turn.
func (q *queue) pop(now float64) *waiter {
	for i := len(q.classes) - 1; i >= 0; i-- {
		c := &q.classes[i]
		for len(c.heap) > 0 {
			f := c.heap[0]
			if f.n == 0 {
				heap.Pop(&c.heap)
				delete(c.flows, f.key)
				continue
			}
			w := f.head
			if q.stands(now, f) {
				w = f.tail
			}
			q.remove(w)
			w.flow = f
			return w
		}
	}
	return nil
}

// served moves the key of a waiter that pop returned to its next round.
func (q *queue) served(now float64, w *waiter) {
	c, f := w.class, w.flow
	c.round = f.tag
	f.tag++
	f.turn = now
	heap.Fix(&c.heap, f.index)
}

func (q *queue) stands(now float64, f *flow) bool { return now-f.since > q.standing }

// sweep gives those that have waited until their time, as expiry says, to expire, and returns the earliest time of the others.
func (q *queue) sweep(now float64, expiry func(*waiter) float64, expire func(*waiter)) (next float64) {
	next = math.Inf(1)
	for i := range q.classes {
		c := &q.classes[i]
		for _, f := range c.heap {
			for w := f.head; w != nil; {
				after := w.next
				if t := expiry(w); now >= t {
					q.remove(w)
					expire(w)
				} else {
					next = min(next, t)
				}
				w = after
			}
		}
		c.tidy(now - q.standing)
	}
	return next
}

// tidy drops the empty flows that have had no turn since then, or may have the next.
func (c *class) tidy(since float64) {
	kept := c.heap[:0]
	for _, f := range c.heap {
		if f.n == 0 && (f.tag <= c.round || f.turn < since) {
			delete(c.flows, f.key)
			continue
		}
		f.index = len(kept)
		kept = append(kept, f)
	}
	if len(kept) < len(c.heap) {
		clear(c.heap[len(kept):])
		c.heap = kept
		heap.Init(&c.heap)
	}
}

// reset forgets the rounds when nobody waits.
func (q *queue) reset() {
	for i := range q.classes {
		if c := &q.classes[i]; len(c.heap) > 0 {
			clear(c.flows)
			clear(c.heap)
			c.heap, c.round = c.heap[:0], 0
		}
	}
}

// victim is who makes room in a full queue for a request: the oldest of the longest line of a lower priority, or of its own
// priority if that line is longer than the request's would be. Without one it is nil.
func (q *queue) victim(p Priority, key string) *waiter {
	for lower := Sheddable; lower <= p; lower++ {
		c := q.class(lower)
		var longest *flow
		for _, f := range c.heap {
			if f.n > 0 && (longest == nil || f.n > longest.n) {
				longest = f
			}
		}
		if longest == nil {
			continue
		}
		if lower < p {
			return longest.head
		}
		own := 0
		if f := c.flows[key]; f != nil {
			own = f.n
		}
		if longest.n > own+1 {
			return longest.head
		}
	}
	return nil
}
