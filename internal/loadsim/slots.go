package loadsim

import (
	"sync"
	"time"
)

// Slots is a service that does a number of things at a time, like a connection pool or a disk: what comes beyond that queues
// first in, first out, and does not notice that its client has left. Its capacity is slots ÷ work.
type Slots struct {
	mu    sync.Mutex
	slots int
	busy  int
	slow  float64
	queue []chan struct{}
}

// NewSlots returns n slots.
func NewSlots(n int) *Slots { return &Slots{slots: n, slow: 1} }

// Do returns when the work has been done.
func (s *Slots) Do(work time.Duration) {
	s.mu.Lock()
	if s.busy < s.slots {
		s.busy++
		s.mu.Unlock()
	} else {
		turn := make(chan struct{})
		s.queue = append(s.queue, turn)
		s.mu.Unlock()
		<-turn
	}
	s.mu.Lock()
	d := time.Duration(float64(work) * s.slow)
	s.mu.Unlock()
	time.Sleep(d)
	s.mu.Lock()
	s.busy--
	s.next()
	s.mu.Unlock()
}

// next hands free slots to those who wait.
func (s *Slots) next() {
	for s.busy < s.slots && len(s.queue) > 0 {
		s.busy++
		close(s.queue[0])
		s.queue = s.queue[1:]
	}
}

// Set changes the number of slots; work under way keeps its own.
func (s *Slots) Set(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slots = n
	s.next()
}

// Slow makes work that begins from now on take factor times as long.
func (s *Slots) Slow(factor float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = factor
}
