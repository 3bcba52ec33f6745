package machine

import (
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// forgive allows for a time in which this process stood still, as after SIGSTOP: nobody's silence or slowness in it was
// seen. It is told by a message that was due and came much later.
func (m *Machine) forgive(now time.Time) {
	if m.expected.IsZero() || now.Sub(m.expected) <= pause {
		return
	}
	late := now.Sub(m.expected)
	for _, w := range m.workers {
		if w.up() {
			w.Beat = now
		}
		if !w.Deadline.IsZero() {
			w.Deadline = w.Deadline.Add(late + pause)
		}
	}
}

// beat notes a sign of life. One that says that the app does not work is none.
func (m *Machine) beat(id int, sick string) {
	w := m.workers[id]
	if w == nil || !w.up() {
		return
	}
	if w.Sick = sick; sick != "" {
		return
	}
	w.Beat = m.now
	if w.State == Suspect {
		w.State = Ready
		m.log(slog.LevelInfo, "worker answers again", "slot", w.Slot, "generation", w.Generation, "pid", w.PID)
	}
}

// silenceEnds is when w's silence has lasted too long for its state, or zero.
func (m *Machine) silenceEnds(w *Worker) time.Time {
	switch {
	case m.stopping: // the drain has deadlines of its own
	case w.State == Ready && m.cfg.AdoptAfter > 0:
		return w.Beat.Add(m.cfg.AdoptAfter)
	case w.up() && m.cfg.HangTimeout > 0:
		return w.Beat.Add(m.cfg.HangTimeout)
	}
	return time.Time{}
}

// silent makes a ready worker suspect, whose slot is then adopted, and a suspect one hung.
func (m *Machine) silent(w *Worker) {
	quiet := m.now.Sub(w.Beat)
	reason := fmt.Sprintf("silent for %v", quiet.Round(100*time.Millisecond))
	if w.Sick != "" {
		reason = "it says that it does not work: " + w.Sick
	}
	if w.State == Ready && m.cfg.AdoptAfter > 0 {
		w.State = Suspect
		m.log(slog.LevelWarn, "worker suspect", "slot", w.Slot, "generation", w.Generation, "pid", w.PID, "reason", reason)
		if m.cfg.HangTimeout == 0 || quiet < m.cfg.HangTimeout {
			return
		}
	}
	incoming := m.slots[w.Slot].Incoming == w
	w.State, w.Deadline = Hung, m.now.Add(quitGrace)
	m.leave(w)
	m.log(slog.LevelError, "worker hung", "slot", w.Slot, "generation", w.Generation, "pid", w.PID, "reason", reason)
	m.do(Quit{w.ID})
	m.failedRoll(w, incoming, "hung: "+reason)
}

// checks notes what the readiness checks say.
func (m *Machine) checks(id int, failing string) {
	w := m.workers[id]
	if w == nil {
		return
	}
	if w.Failing != "" && failing == "" {
		w.Passing = m.now
	}
	w.Failing = failing
}

// passes says whether the readiness checks let the slot's incoming worker take over: they pass, or fail for the one that
// serves as well, so that the new one is no worse.
func (m *Machine) passes(s *Slot) bool {
	return s.Incoming.Failing == "" || s.Current != nil && s.Current.Failing != ""
}

// swapAt is when the slot's incoming worker, which serves, will have been healthy for long enough, or when the patience
// with its checks ends.
func (m *Machine) swapAt(s *Slot) time.Time {
	in := s.Incoming
	if !m.passes(s) {
		return in.Started.Add(m.cfg.ReadyTimeout)
	}
	since := in.ReadyAt
	if in.Passing.After(since) {
		since = in.Passing
	}
	return since.Add(m.cfg.MinHealthy)
}

// memory has a worker that has grown too large replaced, or ends it.
func (m *Machine) memory(id int, bytes int64) {
	w := m.workers[id]
	if w == nil {
		return
	}
	w.Memory = bytes
	switch {
	case w.leaving():
	case m.cfg.HardMemory > 0 && bytes > m.cfg.HardMemory && !m.stopping:
		m.failed(w, fmt.Sprintf("at %d MB, over its memory limit", bytes>>20))
	case m.cfg.SoftMemory > 0 && bytes > m.cfg.SoftMemory && w.up() && !m.stopping && !m.now.Before(w.Ask):
		w.Ask = m.now.Add(askAgain)
		m.log(slog.LevelWarn, "worker replaced for its memory", "slot", w.Slot, "generation", w.Generation, "pid", w.PID, "mb", bytes>>20)
		m.replace(id)
	}
}

// adopt sees to it that, as long as any worker is ready, every slot has one that accepts: its own, or the next ready one.
// Retired slots count too: their sockets are open, and the kernel may give them connections.
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
			if serves(w) && !slices.Equal(w.Adopted, want[w]) {
				w.Adopted = want[w]
				m.do(Adopt{w.ID, w.Adopted})
			}
		}
	}
}
