//go:build unix

package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/admin"
	"github.com/fairlead/fairlead/cluster/internal/machine"
	"github.com/fairlead/fairlead/cluster/internal/sys"
	"github.com/fairlead/fairlead/cluster/internal/wire"
	"github.com/fairlead/fairlead/internal/telemetry"
)

// supervisor owns the sockets and the workers. One goroutine, run, owns its state; everything else sends it messages. What
// to do is decided by the machine; the supervisor carries it out.
type supervisor struct {
	opts    Options
	machine *machine.Machine
	events  chan any // machine.Message or func()
	done    chan struct{}
	spawner *spawner
	exits   exits
	totals  *totals
	logs    chan machine.Log

	procs map[int]*proc // by worker ID
	byPID map[int]int   // to worker ID
	ops   *operations
	queue []machine.Message // that come of effects
	exit  *machine.Exit

	signalled bool // a signal has said to stop

	steered     []int // slots that new connections go to
	cannotSteer bool
	notifier    *notifier

	status atomic.Pointer[status]
}

// status is what other goroutines may know.
type status struct {
	machine.Status
	ids map[int]string // InstanceID by worker ID
}

var _ controlled = (*supervisor)(nil)

func supervise(ctx context.Context, o Options) error {
	signals, children := sys.SupervisorSignals(), sys.ChildSignal()
	defer signal.Stop(signals)
	defer signal.Stop(children)
	if err := sys.Subreaper(); err != nil {
		o.Logger.Warn("cluster: orphans of workers will not be reaped", "error", err)
	}
	door, err := openFrontDoor(o)
	if err != nil {
		return err
	}
	defer door.close()
	sockets, err := openSockets(o.Listen, o.Workers)
	if err != nil {
		return err
	}
	sp, err := newSpawner(o, sockets)
	if err != nil {
		return err
	}
	s := &supervisor{
		opts: o,
		machine: machine.New(machine.Config{
			Workers:      o.Workers,
			ReadyTimeout: o.ReadyTimeout,
			MinHealthy:   o.MinHealthy,
			Drain:        o.DrainTimeout + killAfter,
			Stop:         o.PreStop + o.DrainTimeout + killAfter,
			AdoptAfter:   o.AdoptAfter,
			HangTimeout:  o.HangTimeout,
			SoftMemory:   o.SoftMemory,
			HardMemory:   o.HardMemory,
			Lifetime:     o.Lifetime,
			OneByOne:     o.OneByOne,
			Room:         sys.Room,
			Jitter:       rand.Float64,
		}),
		events:  make(chan any, 256),
		done:    make(chan struct{}),
		spawner: sp,
		totals:  newTotals(),
		logs:    make(chan machine.Log, 256),
		procs:   make(map[int]*proc),
		byPID:   make(map[int]int),
		ops:     newOperations(),
	}
	s.notifier = newNotifier(s.Alive)
	s.publish()
	logged := make(chan struct{})
	go s.writeLogs(logged)
	door.serve(o, s)

	err = s.run(ctx, signals, children)

	close(s.done)
	s.notifier.close()
	sp.close()
	close(s.logs)
	select {
	case <-logged:
	case <-time.After(time.Second):
	}
	return err
}

// run is the state's goroutine.
func (s *supervisor) run(ctx context.Context, signals, children <-chan os.Signal) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	stop := ctx.Done()
	s.handle(machine.Boot{})
	for s.exit == nil {
		if next := s.machine.Next(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case e := <-s.events:
			s.take(e)
		case sig := <-signals:
			s.signal(sig)
		case <-children:
			s.reap()
		case <-timer.C:
			s.takeWaiting() // signs of life that have come, before anybody is found silent
			s.handle(machine.Tick{})
		case <-stop:
			stop = nil
			s.stopGracefully()
		}
	}
	if s.exit.Err != nil {
		return fmt.Errorf("cluster: %w", s.exit.Err)
	}
	return nil
}

func (s *supervisor) take(e any) {
	switch e := e.(type) {
	case func():
		e()
	case machine.Message:
		s.handle(e)
	}
}

// takeWaiting takes what has been posted so far.
func (s *supervisor) takeWaiting() {
	for range len(s.events) {
		select {
		case e := <-s.events:
			s.take(e)
		default:
		}
	}
}

func (s *supervisor) signal(sig os.Signal) {
	by := sys.IsScale(sig)
	switch {
	case sys.IsReload(sig):
		s.log(slog.LevelInfo, "reload asked for by a signal", "signal", sig.String())
		s.handle(machine.Reload{Slot: -1})
	case sys.IsUpgrade(sig):
		s.log(slog.LevelWarn, errNoUpgrade.Error(), "signal", sig.String())
	case by != 0:
		s.log(slog.LevelInfo, "scale asked for by a signal", "signal", sig.String())
		s.handle(machine.Scale{By: by})
	case sys.IsStop(sig):
		s.log(slog.LevelInfo, "stopping", "signal", sig.String())
		s.stopBySignal()
	}
}

// resize tells all workers that so many share the machine.
func (s *supervisor) resize(workers int) {
	s.spawner.workers = workers
	for _, p := range s.procs {
		p.order(wire.Message{Type: wire.Share, Workers: workers, Memory: memoryShare(workers)})
	}
}

// stopBySignal stops gracefully the first time. Only another signal, which a person has to repeat, means "at once": the
// first may come after the control socket, and together with the end of a context that ends for the same signal.
func (s *supervisor) stopBySignal() {
	again := s.signalled
	s.signalled = true
	if again {
		s.handle(machine.Stop{})
		return
	}
	s.stopGracefully()
}

func (s *supervisor) stopGracefully() {
	if !s.machine.Status().Stopping {
		s.handle(machine.Stop{})
	}
}

// post sends a message to the state's goroutine.
func (s *supervisor) post(e any) {
	select {
	case s.events <- e:
	case <-s.done:
	}
}

func (s *supervisor) handle(m machine.Message) {
	s.queue = append(s.queue, m)
	for len(s.queue) > 0 && s.exit == nil {
		m := s.queue[0]
		s.queue = s.queue[1:]
		for _, e := range s.machine.Handle(time.Now(), m) {
			s.carryOut(e)
		}
	}
	s.publish()
}

func (s *supervisor) carryOut(e machine.Effect) {
	switch e := e.(type) {
	case machine.Spawn:
		s.spawn(e.Worker)
	case machine.Drain:
		if p := s.procs[e.ID]; p != nil {
			p.drain(e.Stopping)
		}
	case machine.Adopt:
		if p := s.procs[e.ID]; p != nil {
			p.order(s.spawner.adoption(e.Slots))
		}
	case machine.Resize:
		s.resize(e.Workers)
	case machine.Quit:
		if p := s.procs[e.ID]; p != nil {
			sys.Quit(p.pid)
		}
	case machine.Kill:
		if p := s.procs[e.ID]; p != nil {
			sys.Kill(p.pid)
		}
	case machine.Open:
		s.spawner.open(e.Version)
	case machine.Release:
		s.spawner.release(e.Version)
	case machine.Finish:
		s.ops.finish(e.Op, e.Err)
	case machine.CloseSockets:
		s.spawner.closeSockets()
	case machine.Log:
		s.log(e.Level, e.Text, e.Args...)
	case machine.Exit:
		s.exit = &e
	}
}

func (s *supervisor) spawn(w machine.Worker) {
	p, err := s.spawner.spawn(w)
	if err != nil {
		s.queue = append(s.queue, machine.SpawnFailed{ID: w.ID, Err: err})
		return
	}
	s.procs[w.ID] = p
	s.byPID[p.pid] = w.ID
	s.totals.add(w.ID, p.poll)
	go p.receive(s.post, s.totals)
	s.queue = append(s.queue, machine.Spawned{ID: w.ID, PID: p.pid})
}

// reap runs on the same goroutine as spawn, so that no exit is seen before its process is known.
func (s *supervisor) reap() {
	for _, e := range sys.Reap() {
		id, ok := s.byPID[e.PID]
		if !ok {
			continue // an orphan that was adopted
		}
		s.procs[id].exited()
		go s.recordExit(s.procs[id], e)
		delete(s.byPID, e.PID)
		delete(s.procs, id)
		s.handle(machine.Exited{ID: id, Status: e.Status})
	}
}

func (s *supervisor) publish() {
	st := &status{Status: s.machine.Status(), ids: make(map[int]string, len(s.procs))}
	for id, p := range s.procs {
		st.ids[id] = p.instanceID
	}
	s.status.Store(st)
	s.steer(servingSlots(st.Status))
	s.notifier.tell(conditionOf(st.Status))
}

// log hands a message to a goroutine that may block where the logger writes.
func (s *supervisor) log(level slog.Level, text string, args ...any) {
	select {
	case s.logs <- machine.Log{Level: level, Text: text, Args: args}:
	default:
	}
}

func (s *supervisor) writeLogs(done chan<- struct{}) {
	defer close(done)
	for l := range s.logs {
		s.spawner.logs.add(-1, logText(l))
		s.opts.Logger.Log(context.Background(), l.Level, "cluster: "+l.Text, l.Args...)
	}
}

func (s *supervisor) shutdown() {
	s.post(func() {
		s.log(slog.LevelInfo, "stopping", "by", "control socket")
		s.stopGracefully()
	})
}

// Alive asks the state's goroutine.
func (s *supervisor) Alive(ctx context.Context) error {
	answered := make(chan struct{})
	select {
	case s.events <- func() { close(answered) }:
	case <-ctx.Done():
		return errors.New("the supervisor does not answer")
	case <-s.done:
		return nil
	}
	select {
	case <-answered:
		return nil
	case <-s.done:
		return nil
	case <-ctx.Done():
		return errors.New("the supervisor does not answer")
	}
}

func (s *supervisor) Health() admin.Health {
	st := s.status.Load()
	h := admin.Health{Started: st.Booted}
	ready, passing, failed := 0, 0, ""
	for i, slot := range st.Slots {
		for _, w := range slot.Workers {
			if w.State != machine.Ready {
				continue
			}
			ready++
			ok := s.totals.reported(w.ID)
			if !ok {
				failed = "the worker has not reported"
			}
			for _, c := range s.totals.frame(w.ID).Checks {
				h.Checks = append(h.Checks, admin.Check{Slot: i, Name: c.Name, Error: c.Error})
				if c.Error != "" {
					ok, failed = false, "check failed: "+c.Name
				}
			}
			if ok {
				passing++
			}
		}
	}
	switch {
	case st.Stopping:
		h.Reason = "stopping"
	case ready == 0:
		h.Reason = "no worker is ready"
	case passing == 0:
		h.Reason = failed
	default:
		h.Ready = true
	}
	return h
}

// clusterStats is what the supervisor itself counts.
type clusterStats struct {
	Ready    int `metric:"fairlead.cluster.workers,gauge,state=ready"`
	Starting int `metric:"fairlead.cluster.workers,gauge,state=starting"`
	Draining int `metric:"fairlead.cluster.workers,gauge,state=draining"`
	Suspect  int `metric:"fairlead.cluster.workers,gauge,state=suspect"`
	Hung     int `metric:"fairlead.cluster.workers,gauge,state=hung"`
	Backoff  int `metric:"fairlead.cluster.workers,gauge,state=backoff"`
	Errored  int `metric:"fairlead.cluster.workers,gauge,state=errored"`
	Restarts int `metric:"fairlead.cluster.restarts,counter"`
	Lost     int `metric:"fairlead.cluster.log.lines.dropped,counter"` // that the reader of the supervisor's output was too slow for
}

func (s *supervisor) Snapshot(ctx context.Context) admin.Snapshot {
	s.totals.refresh(ctx)
	return s.Latest()
}

func (s *supervisor) Latest() admin.Snapshot {
	st, h := s.status.Load(), s.Health()
	snap := admin.Snapshot{Time: time.Now(), Ready: h.Ready, Stopping: st.Stopping, Checks: h.Checks}
	stats := clusterStats{Lost: int(s.spawner.stdout.lost.Load() + s.spawner.stderr.lost.Load())}
	for i, slot := range st.Slots {
		stats.Restarts += slot.Restarts
		for _, w := range slot.Workers {
			switch w.State {
			case machine.Ready:
				stats.Ready++
			case machine.Starting:
				stats.Starting++
			case machine.Suspect:
				stats.Suspect++
			case machine.Hung:
				stats.Hung++
			case machine.Draining:
				stats.Draining++
			}
			f := s.totals.frame(w.ID)
			snap.Workers = append(snap.Workers, admin.Worker{
				Slot: i, Generation: w.Generation, PID: w.PID, InstanceID: st.ids[w.ID], State: string(w.State),
				Started: w.Started, Uptime: snap.Time.Sub(w.Started).Seconds(),
				Restarts: slot.Restarts, LastExit: slot.LastExit,
				RSS: f.RSS, Heap: f.Heap, Goroutines: f.Goroutines, Connections: connections(f),
				CPU: f.CPU, SchedP99: f.Sched, RPS: f.RPS,
			})
		}
		switch slot.State {
		case "backoff":
			stats.Backoff++
		case "errored":
			stats.Errored++
		}
		if !slot.Backoff.IsZero() {
			snap.Workers = append(snap.Workers, admin.Worker{Slot: i, State: slot.State, Restarts: slot.Restarts, LastExit: slot.LastExit})
		}
	}
	var own []telemetry.Sample
	for sample := range telemetry.Samples(stats) {
		own = append(own, sample)
	}
	snap.Samples = s.totals.samples(own)
	return snap
}
