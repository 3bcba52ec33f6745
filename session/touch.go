package session

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	touchEvery = time.Second // uses are noted together that often
	touchBatch = 500         // in one call of the store
	touchMax   = 20000       // wait at most; more are dropped, and noted at the session's next use
)

// toucher gathers the sessions that were used. Its goroutine lives while something waits.
type toucher struct {
	flush func([]Record)

	mu      sync.Mutex
	waiting map[string]Record
	stop    chan struct{} // closed by close; nil while no goroutine runs
	ended   chan struct{}
	closed  bool
}

func (t *toucher) add(r Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || len(t.waiting) >= touchMax {
		return
	}
	if t.waiting == nil {
		t.waiting = map[string]Record{}
	}
	t.waiting[r.ID] = r
	if t.stop == nil {
		t.stop, t.ended = make(chan struct{}), make(chan struct{})
		go t.run(t.stop, t.ended)
	}
}

func (t *toucher) run(stop, ended chan struct{}) {
	defer close(ended)
	timer := time.NewTimer(touchEvery)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-stop:
		}
		t.mu.Lock()
		var all []Record
		for _, r := range t.waiting {
			all = append(all, r)
		}
		t.waiting = nil
		if len(all) == 0 {
			t.stop = nil
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		for batch := range slices.Chunk(all, touchBatch) {
			t.flush(batch)
		}
		timer.Reset(touchEvery)
	}
}

// close has what waits noted, and waits for it.
func (t *toucher) close() {
	t.mu.Lock()
	first := !t.closed
	t.closed = true
	stop, ended := t.stop, t.ended
	t.mu.Unlock()
	if stop != nil {
		if first {
			close(stop)
		}
		<-ended
	}
}

func (m *Manager[T]) flush(records []Record) {
	ctx, cancel := context.WithTimeout(context.Background(), m.o.StoreTimeout)
	defer cancel()
	if err := m.store.Touch(ctx, records); err != nil {
		m.unavailable(err)
		return
	}
	m.n.touches.Add(uint64(len(records)))
	m.lookForEvictions(ctx)
}

// A store that may drop sessions when it is full can say how many it has: that logs users out, and nobody else would tell.
type evicting interface {
	Evictions(ctx context.Context) (uint64, error)
}

const evictionsEvery = time.Minute

func (m *Manager[T]) lookForEvictions(ctx context.Context) {
	store, ok := m.store.(evicting)
	if last := m.n.looked.Load(); !ok || time.Since(time.Unix(0, last)) < evictionsEvery || !m.n.looked.CompareAndSwap(last, time.Now().UnixNano()) {
		return
	}
	n, err := store.Evictions(ctx)
	if err != nil {
		m.o.Logger.Debug("session: the store does not tell its evictions", "name", m.o.Name, "error", err)
		return
	}
	if before := m.n.evicted.Swap(n); n > before {
		m.o.Logger.Warn("session: the store is full and has dropped keys, which may have logged users out", "name", m.o.Name, "dropped", n-before)
	}
}
