package cluster

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// aliveWait is how long Options.Alive may take before it counts as stuck.
const aliveWait = 2 * time.Second

// watchAlive asks Options.Alive every frameEvery until the worker has closed. The returned function says at once why the app
// does not work, "" if it does or does not say.
func (w *worker) watchAlive() func() string {
	if w.opts.Alive == nil {
		return func() string { return "" }
	}
	var asked atomic.Int64 // since when, in nanoseconds after the worker's start; 0: not being asked
	var last atomic.Pointer[error]
	go func() {
		tick := time.NewTicker(frameEvery)
		defer tick.Stop()
		for {
			asked.Store(int64(time.Since(w.started)))
			err := w.askAlive()
			last.Store(&err)
			asked.Store(0)
			select {
			case <-tick.C:
			case <-w.closed:
				return
			}
		}
	}()
	return func() string {
		if since := asked.Load(); since != 0 {
			if stuck := time.Since(w.started) - time.Duration(since); stuck > aliveWait {
				return fmt.Sprintf("Options.Alive has not returned for %v", stuck.Round(time.Second))
			}
		}
		if err := last.Load(); err != nil && *err != nil {
			return (*err).Error()
		}
		return ""
	}
}

func (w *worker) askAlive() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), aliveWait)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return w.opts.Alive(ctx)
}
