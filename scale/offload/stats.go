package offload

import (
	"iter"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

type counts struct {
	ran, panics, ignored           atomic.Uint64
	full, timeouts, deadline, gone atomic.Uint64
	exits, killedTime, killedMem   atomic.Uint64
	wait, run                      telemetry.DurationHistogram
}

// Stats is a snapshot of a Lane.
type Stats struct {
	Workers    int     `json:"workers" metric:"fairlead.offload.workers,gauge"`     // tasks of weight 1 that may run at a time
	Effective  string  `json:"effective"`                                           // what the workers are, and if they are not niced, why
	Running    int     `json:"running" metric:"fairlead.offload.running,gauge"`     // tasks that run
	Waiting    int     `json:"waiting" metric:"fairlead.offload.waiting,gauge"`     // tasks in the queue
	Abandoned  int     `json:"abandoned" metric:"fairlead.offload.abandoned,gauge"` // of those that run: nobody waits for them any more
	Processes  int     `json:"processes" metric:"fairlead.offload.processes,gauge"` // processes there are
	Saturation float64 `json:"saturation" metric:"fairlead.offload.saturation,max"` // weights that run ÷ Workers
	Ran        uint64  `json:"ran" metric:"fairlead.offload.ran,counter"`           // tasks that have ended
	Panics     uint64  `json:"panics" metric:"fairlead.offload.panics,counter"`     // of those: by a panic or Goexit
	Ignored    uint64  `json:"ignored" metric:"fairlead.offload.ignored,counter"`   // of those: went on for 0.1 s after their context's end
	Gone       uint64  `json:"gone" metric:"fairlead.offload.gone,counter"`         // the caller's context ended while the task waited
	Exits      uint64  `json:"exits" metric:"fairlead.offload.exits,counter"`       // processes that ended by themselves during a task

	RefusedFull     uint64 `json:"refused_full" metric:"fairlead.offload.refused,counter,reason=full"`         // ErrQueueFull
	RefusedTimeout  uint64 `json:"refused_timeout" metric:"fairlead.offload.refused,counter,reason=timeout"`   // ErrQueueTimeout
	RefusedDeadline uint64 `json:"refused_deadline" metric:"fairlead.offload.refused,counter,reason=deadline"` // ErrDeadline

	KilledTime   uint64 `json:"killed_time" metric:"fairlead.offload.killed,counter,reason=time"`     // processes that did not end with their context
	KilledMemory uint64 `json:"killed_memory" metric:"fairlead.offload.killed,counter,reason=memory"` // processes that used more than MaxMemory

	MedianRun time.Duration     `json:"median_run" metric:"fairlead.offload.median_run,max"` // of the last 64 tasks; 0 with fewer than 8
	Wait      telemetry.Buckets `json:"wait" metric:"fairlead.offload.wait,histogram"`       // in the queue, of tasks that were begun
	Run       telemetry.Buckets `json:"run" metric:"fairlead.offload.run,histogram"`         // of tasks that have ended
}

// Stats returns a snapshot.
func (l *Lane) Stats() Stats {
	c := &l.counts
	s := Stats{
		Workers:         l.capacity,
		Effective:       l.effective,
		Processes:       l.children.count(),
		Ran:             c.ran.Load(),
		Panics:          c.panics.Load(),
		Ignored:         c.ignored.Load(),
		Gone:            c.gone.Load(),
		Exits:           c.exits.Load(),
		RefusedFull:     c.full.Load(),
		RefusedTimeout:  c.timeouts.Load(),
		RefusedDeadline: c.deadline.Load(),
		KilledTime:      c.killedTime.Load(),
		KilledMemory:    c.killedMem.Load(),
		Wait:            c.wait.Snapshot(),
		Run:             c.run.Snapshot(),
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Running, s.Waiting, s.Abandoned, s.MedianRun = l.tasks, l.queue.n, l.abandoned, l.runs.median
	s.Saturation = float64(l.running) / float64(l.capacity)
	return s
}

// Samples yields the numbers of Stats for the page and /metrics.
func (l *Lane) Samples() iter.Seq[telemetry.Sample] {
	return telemetry.Samples(l.Stats(), telemetry.Attr{Key: "lane", Value: l.name})
}
