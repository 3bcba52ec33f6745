// Package machine is the supervisor's mind: what happened goes in, what to do comes out. It starts no process, reads no
// clock and has no goroutine, so that everything it decides can be tested without any.
package machine

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"
)

// Config is what the machine goes by.
type Config struct {
	Workers      int
	ReadyTimeout time.Duration // from start to ready
	MinHealthy   time.Duration // ready for that long before the predecessor drains
	Drain        time.Duration // from the order to drain to the kill, when a worker is replaced
	Stop         time.Duration // the same when everything stops
	Jitter       func() float64
}

const (
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 30 * time.Second
	halfLife    = time.Minute // of readiness, for past crashes to count half
	maxDraining = 4           // a slot; the oldest beyond that is cut
)

// ErrStopping is how an operation ends that the end of the service overtook.
var ErrStopping = errors.New("the service is stopping")

// State is where a worker is in its life.
type State string

// A worker goes through them in this order, and may skip some.
const (
	Starting State = "starting"
	Ready    State = "ready"
	Draining State = "draining"
)

// Worker is one process.
type Worker struct {
	ID         int // unique
	Slot       int
	Generation int // counts the processes of the slot, from 1
	Version    int // of the executable
	PID        int // 0 until spawned
	State      State
	Started    time.Time
	ReadyAt    time.Time

	deadline time.Time // to be ready, or gone; zero when it has been killed
	failed   string    // why it was killed
	adopted  []int     // slots, ascending
}

// Slot is a worker's stable place.
type Slot struct {
	Current  *Worker
	Incoming *Worker   // will take Current's place
	Draining []*Worker // oldest first
	Restarts int       // processes that took the place of one that crashed
	LastExit string
	Backoff  time.Time // when the next process starts, if Current is nil and nothing is incoming

	generation int
	version    int     // of the executable that a restart uses
	crashes    float64 // recent ones, fading with readiness
}

// Machine holds the slots. It is not safe for concurrent use.
type Machine struct {
	cfg      Config
	now      time.Time
	slots    []*Slot
	workers  map[int]*Worker
	lastID   int
	booted   bool // some worker has been ready
	stopping bool
	exited   bool
	err      error // that Exit will report

	versions map[int]bool // executables that are held
	version  int          // the newest
	roll     *roll
	pending  []*request
	out      []Effect
}

// New returns a machine with all its slots empty.
func New(cfg Config) *Machine {
	if cfg.Jitter == nil {
		cfg.Jitter = func() float64 { return 0.5 }
	}
	m := &Machine{cfg: cfg, workers: map[int]*Worker{}, versions: map[int]bool{0: true}}
	for range cfg.Workers {
		m.slots = append(m.slots, &Slot{})
	}
	return m
}

// Handle takes a message that came in at the time now, and returns what to do, in this order.
func (m *Machine) Handle(now time.Time, msg Message) []Effect {
	if m.exited {
		return nil
	}
	m.now, m.out = now, nil
	switch msg := msg.(type) {
	case Boot:
		for i := range m.slots {
			m.slots[i].Current = m.spawn(i, 0)
		}
	case Spawned:
		if w := m.workers[msg.ID]; w != nil {
			w.PID = msg.PID
		}
	case SpawnFailed:
		m.gone(msg.ID, "not started: "+msg.Err.Error())
	case IsReady:
		m.becameReady(msg.ID)
	case Exited:
		m.gone(msg.ID, msg.Status)
	case Reload:
		m.request(&request{ops: []string{msg.Op}, slot: msg.Slot, anew: true})
	case Replace:
		m.replace(msg.ID)
	case Stop:
		m.stop(nil)
	case Tick:
	}
	m.expire()
	m.advance()
	m.adopt()
	m.release()
	if m.stopping && len(m.workers) == 0 {
		m.exited = true
		m.do(Exit{m.err})
	}
	return m.out
}

// Next is when the machine wants a Tick at the latest, or zero.
func (m *Machine) Next() time.Time {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, w := range m.workers {
		sooner(w.deadline)
	}
	for i, s := range m.slots {
		if s.Current == nil && s.Incoming == nil && !m.stopping {
			sooner(s.Backoff)
		}
		if in := s.Incoming; in != nil && in.State == Ready && m.rolling(i) {
			sooner(in.ReadyAt.Add(m.cfg.MinHealthy))
		}
	}
	return next
}

func (m *Machine) do(e Effect) { m.out = append(m.out, e) }

func (m *Machine) log(level slog.Level, text string, args ...any) {
	m.do(Log{level, text, args})
}

func (m *Machine) spawn(slot, version int) *Worker {
	s := m.slots[slot]
	m.lastID++
	s.generation++
	w := &Worker{
		ID: m.lastID, Slot: slot, Generation: s.generation, Version: version,
		State: Starting, Started: m.now, deadline: m.now.Add(m.cfg.ReadyTimeout),
	}
	m.workers[w.ID] = w
	m.do(Spawn{*w})
	return w
}

func (m *Machine) becameReady(id int) {
	w := m.workers[id]
	if w == nil || w.State != Starting || w.failed != "" {
		return
	}
	w.State, w.ReadyAt, w.deadline = Ready, m.now, time.Time{}
	m.booted = true
	m.log(slog.LevelInfo, "worker ready", "slot", w.Slot, "generation", w.Generation, "pid", w.PID, "after", m.now.Sub(w.Started).Round(time.Millisecond))
}

// drain tells w to finish and exit, and moves it to the slot's draining ones.
func (m *Machine) drain(w *Worker) {
	m.leave(w)
	w.State = Draining
	w.deadline = m.now.Add(m.cfg.Drain)
	if m.stopping {
		w.deadline = m.now.Add(m.cfg.Stop)
	}
	m.do(Drain{w.ID, m.stopping})
}

// kill ends w at once. It stays among the slot's draining ones until its exit has been seen.
func (m *Machine) kill(w *Worker, why string) {
	w.failed, w.deadline = why, time.Time{} // before leave, which counts those that are not
	w.State = Draining
	m.leave(w)
	m.do(Kill{w.ID})
	m.log(slog.LevelWarn, "worker killed", "slot", w.Slot, "generation", w.Generation, "pid", w.PID, "reason", why)
}

// leave takes w out of its place.
func (m *Machine) leave(w *Worker) {
	s := m.slots[w.Slot]
	if s.Current == w {
		s.Current = nil
	}
	if s.Incoming == w {
		s.Incoming = nil
	}
	if !slices.Contains(s.Draining, w) {
		s.Draining = append(s.Draining, w)
	}
	alive := 0
	for _, d := range slices.Backward(s.Draining) {
		if d.failed != "" {
			continue
		}
		if alive++; alive > maxDraining {
			m.kill(d, "too many of the slot are draining")
		}
	}
}

// gone takes note of an exit, or of a start that failed.
func (m *Machine) gone(id int, status string) {
	w := m.workers[id]
	if w == nil {
		return
	}
	s := m.slots[w.Slot]
	delete(m.workers, id)
	if w.failed != "" {
		status += " (" + w.failed + ")"
	}
	s.LastExit = status
	switch {
	case slices.Contains(s.Draining, w):
		s.Draining = slices.DeleteFunc(s.Draining, func(d *Worker) bool { return d == w })
		level := slog.LevelInfo
		if status != "exit status 0" {
			level = slog.LevelWarn
		}
		m.log(level, "worker ended", "slot", w.Slot, "generation", w.Generation, "pid", w.PID, "exit", status)
	case m.stopping:
		m.leave(w)
		s.Draining = slices.DeleteFunc(s.Draining, func(d *Worker) bool { return d == w })
	case s.Incoming == w:
		s.Incoming = nil
		m.rollFailed(fmt.Errorf("slot %d: the new worker ended: %s", w.Slot, status))
	default:
		m.lost(w, status)
	}
}

// lost handles the unexpected end of a slot's current worker.
func (m *Machine) lost(w *Worker, status string) {
	s := m.slots[w.Slot]
	s.Current = nil
	if !m.booted {
		m.stop(fmt.Errorf("slot %d: the worker ended before any was ready: %s", w.Slot, status))
		return
	}
	if w.State == Ready {
		s.crashes *= math.Exp2(-m.now.Sub(w.ReadyAt).Minutes() / halfLife.Minutes())
	}
	s.crashes++
	delay := m.backoff(s.crashes)
	s.Backoff = m.now.Add(delay)
	m.log(slog.LevelError, "worker crashed", "slot", w.Slot, "generation", w.Generation, "pid", w.PID, "exit", status, "restart_in", delay.Round(time.Millisecond))
	if m.roll != nil && m.roll.swapped(w) {
		m.rollFailed(fmt.Errorf("slot %d: the new worker ended just after: %s", w.Slot, status))
	}
}

// backoff doubles with each recent crash from 100 ms to 30 s, give or take a fifth.
func (m *Machine) backoff(crashes float64) time.Duration {
	d := float64(minBackoff) * math.Exp2(min(crashes-1, 20))
	return time.Duration(min(d, float64(maxBackoff)) * (0.8 + 0.4*m.cfg.Jitter()))
}

// expire acts on what has taken too long, and restarts what has waited long enough.
func (m *Machine) expire() {
	due := func(t time.Time) bool { return !t.IsZero() && !t.After(m.now) }
	for _, id := range slices.Sorted(mapKeys(m.workers)) {
		w := m.workers[id]
		if w == nil || !due(w.deadline) {
			continue
		}
		if w.State == Draining {
			if m.stopping {
				m.err = errors.Join(m.err, fmt.Errorf("slot %d: the worker did not end in time and was killed", w.Slot))
			}
			m.kill(w, "it did not end in time")
			continue
		}
		why := fmt.Sprintf("not ready within %v", m.cfg.ReadyTimeout)
		incoming := m.slots[w.Slot].Incoming == w
		m.kill(w, why)
		if incoming {
			m.rollFailed(fmt.Errorf("slot %d: the new worker was %s", w.Slot, why))
		} else if !m.stopping {
			m.lost(w, why)
		}
	}
	for i, s := range m.slots {
		if s.Current == nil && s.Incoming == nil && !m.stopping && due(s.Backoff) && !m.rolling(i) {
			s.Backoff = time.Time{}
			s.Restarts++
			s.Current = m.spawn(i, s.version)
		}
	}
}

func (m *Machine) stop(err error) {
	if m.stopping {
		for _, id := range slices.Sorted(mapKeys(m.workers)) {
			if w := m.workers[id]; w.failed == "" {
				m.err = errors.Join(m.err, fmt.Errorf("slot %d: the worker was killed by a second order to stop", w.Slot))
				m.kill(w, "told to stop twice")
			}
		}
		return
	}
	m.stopping, m.err = true, err
	m.do(CloseSockets{})
	if m.roll != nil {
		m.finish(m.roll.ops, ErrStopping)
	}
	for _, r := range m.pending {
		m.finish(r.ops, ErrStopping)
	}
	m.roll, m.pending = nil, nil
	for _, id := range slices.Sorted(mapKeys(m.workers)) {
		if w := m.workers[id]; w.State != Draining {
			m.drain(w)
		}
	}
}

func (m *Machine) finish(ops []string, err error) {
	for _, op := range ops {
		if op != "" {
			m.do(Finish{op, err})
		}
	}
}

// adopt sees to it that, as long as any worker is ready, every slot has one that accepts: its own, or the next ready one.
func (m *Machine) adopt() {
	if m.stopping {
		return
	}
	want := map[*Worker][]int{}
	for i, s := range m.slots {
		if serves(s.Current) || serves(s.Incoming) {
			continue
		}
		for n := range len(m.slots) - 1 {
			other := m.slots[(i+1+n)%len(m.slots)]
			w := other.Current
			if !serves(w) {
				w = other.Incoming
			}
			if serves(w) {
				want[w] = append(want[w], i)
				break
			}
		}
	}
	for _, s := range m.slots {
		for _, w := range []*Worker{s.Current, s.Incoming} {
			if serves(w) && !slices.Equal(w.adopted, want[w]) {
				w.adopted = want[w]
				m.do(Adopt{w.ID, w.adopted})
			}
		}
	}
}

func serves(w *Worker) bool { return w != nil && w.State == Ready }

// release lets executables go that nothing runs or would be restarted from.
func (m *Machine) release() {
	used := map[int]bool{m.version: true}
	for _, s := range m.slots {
		used[s.version] = true
	}
	for _, w := range m.workers {
		used[w.Version] = true
	}
	if m.roll != nil {
		for _, st := range slices.Concat(m.roll.done, m.roll.slots) {
			used[st.before], used[st.version] = true, true
		}
	}
	for _, v := range slices.Sorted(mapKeys(m.versions)) {
		if !used[v] {
			delete(m.versions, v)
			m.do(Release{v})
		}
	}
}

func mapKeys[V any](m map[int]V) func(func(int) bool) {
	return func(yield func(int) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
