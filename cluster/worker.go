package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"maps"
	"math"
	"net"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/sys"
	"github.com/fairlead/fairlead/cluster/internal/wire"
	"github.com/fairlead/fairlead/internal/telemetry"
)

const (
	frameEvery   = 500 * time.Millisecond
	checkEvery   = time.Second
	checkTimeout = 2 * time.Second

	orphanDrain = 600 * time.Millisecond
	orphanIdle  = 100 * time.Millisecond
	orphanKill  = 900 * time.Millisecond
)

// worker is the process an app runs in; it implements process.Worker.
type worker struct {
	slot, generation int
	id               string
	started          time.Time
	opts             Options
	onReady          func()

	ready    sync.Once
	orphaned atomic.Bool
	replaced atomic.Bool // others go on: no pre-stop delay
	pace     pace
	closed   chan struct{}
	checked  chan struct{} // holds one if what a check says has changed

	mu      sync.Mutex
	sockets map[string]func() (net.Listener, error)   // what Listener has not given away; nil when it has
	packets map[string]func() (net.PacketConn, error) // the same of PacketConn
	checks  []*check
	sources []*source
}

// source is where samples come from.
type source struct {
	samples  func() iter.Seq[telemetry.Sample]
	panicked sync.Once
}

// check is a readiness check and its latest result.
type check struct {
	name string
	run  func(context.Context) error
	last atomic.Pointer[error]
}

func newWorker(o Options) *worker {
	return &worker{
		started: time.Now(),
		opts:    o,
		onReady: func() {},
		closed:  make(chan struct{}),
		checked: make(chan struct{}, 1),
		sockets: make(map[string]func() (net.Listener, error)),
		packets: make(map[string]func() (net.PacketConn, error)),
	}
}

func newInstanceID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (w *worker) Slot() int          { return w.slot }
func (w *worker) Generation() int    { return w.generation }
func (w *worker) InstanceID() string { return w.id }

func (w *worker) Listener(name string) (net.Listener, error) { return takeSocket(w, w.sockets, name) }

func (w *worker) PacketConn(name string) (net.PacketConn, error) {
	return takeSocket(w, w.packets, name)
}

// takeSocket opens the socket of that name, once.
func takeSocket[S any](w *worker, sockets map[string]func() (S, error), name string) (s S, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	open, ok := sockets[name]
	if !ok {
		names := slices.Sorted(maps.Keys(sockets))
		return s, fmt.Errorf("cluster: no listener %q: of that kind, Options.Listen has %q", name, names)
	}
	if open == nil {
		return s, fmt.Errorf("cluster: listener %q has been given out already, or closed with the others", name)
	}
	sockets[name] = nil
	return open()
}

func (w *worker) Ready() { w.ready.Do(w.onReady) }

func (w *worker) DrainTimeout() time.Duration {
	if w.orphaned.Load() {
		return min(orphanDrain, w.opts.DrainTimeout)
	}
	return w.opts.DrainTimeout
}

func (w *worker) IdleGrace() time.Duration {
	if w.orphaned.Load() {
		return min(orphanIdle, w.opts.IdleGrace)
	}
	return w.opts.IdleGrace
}

func (w *worker) PreStop() time.Duration {
	if w.orphaned.Load() || w.replaced.Load() {
		return 0
	}
	return w.opts.PreStop
}

func (w *worker) AddSamples(samples func() iter.Seq[telemetry.Sample]) {
	w.mu.Lock()
	w.sources = append(w.sources, &source{samples: samples})
	w.mu.Unlock()
}

// AddCheck runs check now and every second until the worker ends. Until its first result the worker is not ready.
func (w *worker) AddCheck(name string, run func(context.Context) error) {
	c := &check{name: name, run: run}
	w.mu.Lock()
	w.checks = append(w.checks, c)
	w.mu.Unlock()
	go func() {
		tick := time.NewTicker(checkEvery)
		defer tick.Stop()
		for {
			ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
			err := c.run(ctx)
			cancel()
			if old := c.last.Swap(&err); old == nil || (*old == nil) != (err == nil) {
				select {
				case w.checked <- struct{}{}:
				default:
				}
			}
			select {
			case <-tick.C:
			case <-w.closed:
				return
			}
		}
	}()
}

// close ends the checks and closes the sockets nobody asked for.
func (w *worker) close() {
	close(w.closed)
	w.closeSockets()
}

// closeSockets closes the sockets nobody asked for.
func (w *worker) closeSockets() {
	w.mu.Lock()
	defer w.mu.Unlock()
	closeUnused(w.sockets)
	closeUnused(w.packets)
}

func closeUnused[S io.Closer](sockets map[string]func() (S, error)) {
	for name, open := range sockets {
		if open == nil {
			continue
		}
		sockets[name] = nil
		if s, err := open(); err == nil {
			s.Close()
		}
	}
}

// runtimeStats is what every worker reports of itself.
type runtimeStats struct {
	Goroutines int64  `json:"goroutines" metric:"go.goroutine.count,gauge"`
	Heap       uint64 `json:"heap" metric:"go.memory.heap,gauge"`
	RSS        int64  `json:"rss" metric:"process.memory.usage,gauge"`
}

func readRuntime() runtimeStats {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return runtimeStats{Goroutines: int64(runtime.NumGoroutine()), Heap: s[0].Value.Uint64(), RSS: sys.RSS()}
}

// results are the checks and what they said last.
func (w *worker) results() []wire.Check {
	w.mu.Lock()
	checks := slices.Clone(w.checks)
	w.mu.Unlock()
	var results []wire.Check
	for _, c := range checks {
		r := wire.Check{Name: c.name}
		switch err := c.last.Load(); {
		case err == nil:
			r.Error = "not checked yet"
		case *err != nil:
			r.Error = (*err).Error()
		}
		results = append(results, r)
	}
	return results
}

// collect asks the sources, which are the app's: it takes as long as they take.
func (w *worker) collect() []telemetry.Sample {
	w.mu.Lock()
	sources := slices.Clone(w.sources)
	w.mu.Unlock()
	var samples []telemetry.Sample
	for _, s := range sources {
		samples = append(samples, s.collect(w.opts.Logger)...)
	}
	return samples
}

func (s *source) collect(log *slog.Logger) (samples []telemetry.Sample) {
	defer func() {
		if p := recover(); p != nil {
			samples = nil
			s.panicked.Do(func() { log.Error("cluster: a source of samples panicked and is left out", "panic", p) })
		}
	}()
	return slices.DeleteFunc(slices.Collect(s.samples()), notFinite)
}

// notFinite samples cannot be sent, and would spoil every sum they are part of.
func notFinite(s telemetry.Sample) bool {
	bad := func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }
	return bad(s.Value) || s.Buckets != nil && bad(s.Buckets.Sum)
}

// frame is everything the worker tells of itself, cumulative since its start. samples are what the sources said last.
func (w *worker) frame(samples []telemetry.Sample) *wire.Frame {
	rt := readRuntime()
	busy := w.pace.measure(time.Now(), samples)
	samples = slices.AppendSeq(slices.Clone(samples), telemetry.Samples(rt))
	return &wire.Frame{
		Goroutines: rt.Goroutines, Heap: rt.Heap, RSS: rt.RSS, CPU: busy.cpu, Sched: busy.sched, RPS: busy.rps, Checks: w.results(),
		Samples: slices.DeleteFunc(telemetry.Merge(samples), notFinite), // finite numbers may add up to one that is not
	}
}

// connections is how many connections a frame tells of.
func connections(f *wire.Frame) int64 {
	for _, s := range f.Samples {
		if s.Name == "fairlead.drain.connections" {
			return int64(s.Value)
		}
	}
	return 0
}
