//go:build unix

package cluster

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/wire"
	"github.com/fairlead/fairlead/internal/telemetry"
)

// lastFrameWait is how long a worker that ends waits for sources that block.
const lastFrameWait = 2 * time.Second

// reporting sends a worker's frames. The sources of samples are the app's and may block: they are asked on a goroutine of
// their own, run, and neither readiness nor what the supervisor orders waits for them.
type reporting struct {
	w       *worker
	send    func(wire.Message) error
	polls   chan uint64 // holds the newest one
	isReady atomic.Bool
	done    chan struct{} // closed when run has sent its last frame

	mu      sync.Mutex // a frame is sent before a newer one is made
	samples []telemetry.Sample
}

func newReporting(w *worker, conn interface{ Send(wire.Message) error }) *reporting {
	return &reporting{w: w, send: conn.Send, polls: make(chan uint64, 1), done: make(chan struct{})}
}

// beat tells that this process lives until the worker has closed, and nothing else: what takes longer might be taken for
// silence on a busy machine. The app's own word on that, if it has one, is asked for elsewhere and may block.
func (r *reporting) beat() {
	sick := r.w.watchAlive()
	tick := time.NewTicker(frameEvery)
	defer tick.Stop()
	for {
		r.send(wire.Message{Type: wire.Beat, Error: sick()})
		select {
		case <-tick.C:
		case <-r.w.closed:
			return
		}
	}
}

// run sends frames until the worker has closed, and then the last one.
func (r *reporting) run() {
	defer close(r.done)
	tick := time.NewTicker(frameEvery)
	defer tick.Stop()
	for {
		poll, last := uint64(0), false
		select {
		case <-tick.C:
		case poll = <-r.polls:
		case <-r.w.checked:
			r.mu.Lock()
			r.update(0)
			r.mu.Unlock()
			continue
		case <-r.w.closed:
			last = true
		}
		samples := r.w.collect()
		r.mu.Lock()
		r.samples = samples
		r.update(poll)
		r.mu.Unlock()
		if last {
			return
		}
	}
}

func (r *reporting) update(poll uint64) {
	r.send(wire.Message{Type: wire.Update, Poll: poll, Frame: r.w.frame(r.samples)})
}

// ask has run answer a poll. A newer one takes the place of one that it has not come to. One goroutine at a time may call it.
func (r *reporting) ask(poll uint64) {
	select {
	case <-r.polls:
	default:
	}
	r.polls <- poll
}

// ready reports readiness, after the checks, so that it is not claimed without them.
func (r *reporting) ready() {
	r.isReady.Store(true)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.update(0)
	r.send(wire.Message{Type: wire.Ready})
}

// finish waits for the last frame of a worker that has closed.
func (r *reporting) finish() {
	select {
	case <-r.done:
	case <-time.After(lastFrameWait):
	}
}
