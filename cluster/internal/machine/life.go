package machine

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"
)

func (m *Machine) spawn(slot, version int) *Worker {
	s := m.slots[slot]
	m.lastID++
	s.Generation++
	w := &Worker{
		ID: m.lastID, Slot: slot, Generation: s.Generation, Version: version,
		State: Starting, Started: m.now, Deadline: m.now.Add(m.cfg.ReadyTimeout),
	}
	m.workers[w.ID] = w
	m.do(Spawn{*w})
	return w
}

func (m *Machine) becameReady(id int) {
	w := m.workers[id]
	if w == nil || w.State != Starting || w.Failed != "" {
		return
	}
	w.State, w.ReadyAt, w.Deadline, w.Beat = Ready, m.now, time.Time{}, m.now
	if m.cfg.Lifetime > 0 {
		w.Retire = m.now.Add(time.Duration(float64(m.cfg.Lifetime) * (0.9 + 0.2*m.cfg.Jitter())))
	}
	m.booted = true
	m.log(slog.LevelInfo, "worker ready", "slot", w.Slot, "generation", w.Generation, "pid", w.PID, "after", m.now.Sub(w.Started).Round(time.Millisecond))
}

// drain tells w to finish and exit, and moves it to the slot's draining ones.
func (m *Machine) drain(w *Worker) {
	m.leave(w)
	w.State = Draining
	w.Deadline = m.now.Add(m.cfg.Drain)
	if m.stopping {
		w.Deadline = m.now.Add(m.cfg.Stop)
	}
	m.do(Drain{w.ID, m.stopping})
}

// kill ends w at once. It stays among the slot's draining ones until its exit has been seen.
func (m *Machine) kill(w *Worker, why string) {
	w.Failed, w.Deadline = why, time.Time{} // before leave, which counts those that are not
	if w.State != Hung {
		w.State = Draining
	}
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
		if d.Failed != "" {
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
	level := slog.LevelInfo
	if status != "exit status 0" {
		level = slog.LevelWarn
	}
	if w.Failed != "" {
		status += " (" + w.Failed + ")"
	} else if w.State == Hung {
		status += " (hung)"
	}
	s.LastExit = status
	switch {
	case slices.Contains(s.Draining, w):
		s.Draining = slices.DeleteFunc(s.Draining, func(d *Worker) bool { return d == w })
		m.log(level, "worker ended", "slot", w.Slot, "generation", w.Generation, "pid", w.PID, "exit", status)
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
	if !w.ReadyAt.IsZero() {
		s.Crashes *= math.Exp2(-m.now.Sub(w.ReadyAt).Minutes() / halfLife.Minutes())
	}
	s.Crashes++
	delay := m.backoff(s.Crashes)
	s.Errored = s.Crashes > maxCrashes
	if s.Errored {
		delay = erroredRetry
	}
	s.Backoff = m.now.Add(delay)
	m.log(slog.LevelError, "worker crashed", "slot", w.Slot, "generation", w.Generation, "pid", w.PID, "exit", status, "restart_in", delay.Round(time.Millisecond))
	if s.Errored {
		m.log(slog.LevelError, "slot errored: its workers keep crashing", "slot", w.Slot, "exit", status)
	}
	if m.roll != nil && m.roll.swapped(w) {
		m.rollFailed(fmt.Errorf("slot %d: the new worker ended just after: %s", w.Slot, status))
	}
	if m.hopeless() {
		m.stop(fmt.Errorf("the workers of every slot keep crashing; slot %d: %s", w.Slot, status))
	}
}

// hopeless says that every slot is errored and no roll is about to change that.
func (m *Machine) hopeless() bool {
	for i, s := range m.slots {
		if !s.Retired && (!s.Errored || !s.empty() || m.rolling(i)) {
			return false
		}
	}
	return !m.stopping && len(m.pending) == 0
}

// backoff doubles with each recent crash from 100 ms to 30 s, give or take a fifth.
func (m *Machine) backoff(crashes float64) time.Duration {
	d := float64(minBackoff) * math.Exp2(min(crashes-1, 20))
	return time.Duration(min(d, float64(maxBackoff)) * (0.8 + 0.4*m.cfg.Jitter()))
}

// expire acts on what has taken too long, and restarts what has waited long enough.
func (m *Machine) expire() {
	for _, id := range slices.Sorted(mapKeys(m.workers)) {
		w := m.workers[id]
		switch {
		case w == nil:
		case m.due(w.Deadline):
			m.overdue(w)
		case m.due(m.silenceEnds(w)):
			m.silent(w)
		case m.due(w.Retire) && w.up() && !m.stopping:
			w.Retire = m.now.Add(askAgain)
			m.log(slog.LevelInfo, "worker has reached its lifetime", "slot", w.Slot, "generation", w.Generation, "pid", w.PID)
			m.replace(id)
		}
	}
	for _, s := range m.slots {
		if in := s.Incoming; serves(in) && !m.passes(s) && m.due(in.Started.Add(m.cfg.ReadyTimeout)) {
			m.failed(in, fmt.Sprintf("not healthy within %v: check failed: %s", m.cfg.ReadyTimeout, in.Failing))
		}
	}
	for i, s := range m.slots {
		if s.empty() && !m.stopping && m.due(s.Backoff) && !m.rolling(i) {
			s.Backoff = time.Time{}
			s.Restarts++
			s.Current = m.spawn(i, s.Version)
		}
	}
}

// overdue ends a worker that did not become ready or did not go in time.
func (m *Machine) overdue(w *Worker) {
	switch {
	case w.State == Hung:
		m.kill(w, "hung")
	case w.State == Draining:
		if m.stopping {
			m.err = errors.Join(m.err, fmt.Errorf("slot %d: the worker did not end in time and was killed", w.Slot))
		}
		m.kill(w, "it did not end in time")
	default:
		m.failed(w, fmt.Sprintf("not ready within %v", m.cfg.ReadyTimeout))
	}
}

// failed kills a worker that has to be where it is and cannot stay.
func (m *Machine) failed(w *Worker, why string) {
	incoming := m.slots[w.Slot].Incoming == w
	m.kill(w, why)
	m.failedRoll(w, incoming, why)
}

func (m *Machine) failedRoll(w *Worker, incoming bool, why string) {
	if incoming {
		m.rollFailed(fmt.Errorf("slot %d: the new worker was %s", w.Slot, why))
	} else if !m.stopping {
		m.lost(w, why)
	}
}

func (m *Machine) stop(err error) {
	if m.stopping {
		for _, id := range slices.Sorted(mapKeys(m.workers)) {
			if w := m.workers[id]; w.Failed == "" {
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
		m.finish(r.Ops, ErrStopping)
	}
	m.roll, m.pending = nil, nil
	for _, id := range slices.Sorted(mapKeys(m.workers)) {
		if w := m.workers[id]; !w.leaving() {
			m.drain(w)
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
