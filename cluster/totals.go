//go:build unix

package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/wire"
	"github.com/fairlead/fairlead/internal/telemetry"
)

const scrapeWait = 200 * time.Millisecond

// totals holds the latest frame of every worker and what those that are gone have counted.
type totals struct {
	mu      sync.Mutex
	live    map[int]*reporter
	dead    []telemetry.Sample
	polls   uint64
	changed chan struct{} // closed and replaced at each frame that answers a poll
}

// reporter is a worker as a source of frames.
type reporter struct {
	last     *wire.Frame
	reported bool // there has been a frame
	answered uint64
	ask      func(poll uint64) // must not block
}

func newTotals() *totals {
	return &totals{live: make(map[int]*reporter), changed: make(chan struct{})}
}

func (t *totals) add(id int, ask func(poll uint64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live[id] = &reporter{ask: ask, last: &wire.Frame{}}
}

func (t *totals) update(id int, f *wire.Frame, poll uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.live[id]
	if r == nil || f == nil {
		return
	}
	r.last, r.reported = f, true
	if poll > 0 {
		r.answered = poll
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

// remove keeps what a worker that will send no more has counted. Counters pass from the living to the dead in one step,
// so that sums never go backwards.
func (t *totals) remove(id int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.live[id]; r != nil {
		t.dead = telemetry.Merge(t.dead, telemetry.Retained(r.last.Samples))
		delete(t.live, id)
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

// refresh asks every worker for a fresh frame and waits for the answers, but not for long.
func (t *totals) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, scrapeWait)
	defer cancel()
	t.mu.Lock()
	t.polls++
	poll := t.polls
	for _, r := range t.live {
		r.ask(poll)
	}
	t.mu.Unlock()
	for {
		t.mu.Lock()
		changed, all := t.changed, true
		for _, r := range t.live {
			all = all && r.answered >= poll
		}
		t.mu.Unlock()
		if all {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// frame is a worker's latest frame, never nil.
func (t *totals) frame(id int) *wire.Frame {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.live[id]; r != nil {
		return r.last
	}
	return &wire.Frame{}
}

// reported says whether a worker that lives has sent a frame: without one nothing is known of its checks.
func (t *totals) reported(id int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.live[id]
	return r != nil && r.reported
}

// samples merges everything with more.
func (t *totals) samples(more []telemetry.Sample) []telemetry.Sample {
	t.mu.Lock()
	all := [][]telemetry.Sample{t.dead, more}
	for _, r := range t.live {
		all = append(all, r.last.Samples)
	}
	t.mu.Unlock()
	return telemetry.Merge(all...)
}
