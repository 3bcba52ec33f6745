package machine

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// request is a reload or replacement that waits for its turn.
type request struct {
	ops  []string
	slot int  // all if negative
	anew bool // from the executable as it is when the turn comes
}

// roll replaces the workers of some slots, one slot at a time: a new worker, ready, healthy for a while, and only then the
// old one drains. The first slot is the canary. When a new worker fails, the slots that were swapped are rolled back.
type roll struct {
	ops   []string
	slots []step // the first is under way
	done  []step // swapped
	back  bool
	cause error // of the rolling back
}

// step is one slot of a roll.
type step struct {
	slot    int
	version int // that the new worker runs
	before  int // that the slot ran
	worker  int // ID of the new worker, 0 before it was spawned
}

func (m *Machine) request(r *request) {
	if m.stopping {
		m.finish(r.ops, ErrStopping)
		return
	}
	for _, p := range m.pending {
		if p.anew == r.anew && (p.slot < 0 || p.slot == r.slot) {
			p.ops = append(p.ops, r.ops...)
			return
		}
	}
	if r.slot >= len(m.slots) {
		m.finish(r.ops, fmt.Errorf("there is no slot %d: they are 0 to %d", r.slot, len(m.slots)-1))
		return
	}
	m.pending = append(m.pending, r)
}

func (m *Machine) replace(id int) {
	w := m.workers[id]
	if w == nil || m.stopping || w.State == Ready && m.rolling(w.Slot) {
		return
	}
	switch s := m.slots[w.Slot]; {
	case s.Current == w && w.State == Ready:
		m.request(&request{slot: w.Slot})
	case w.State == Starting:
		// It serves nobody: its end counts as that of any worker that does not become ready.
		m.kill(w, "told to end before it was ready")
		if m.roll != nil && m.roll.worker() == id {
			m.rollFailed(fmt.Errorf("slot %d: the new worker was told to end", w.Slot))
		} else {
			m.lost(w, "told to end before it was ready")
		}
	}
}

// rolling says whether a roll is at work on the slot.
func (m *Machine) rolling(slot int) bool {
	return m.roll != nil && len(m.roll.slots) > 0 && m.roll.slots[0].slot == slot
}

// worker is the ID of the new worker that the roll waits for, or 0.
func (r *roll) worker() int {
	if len(r.slots) == 0 {
		return 0
	}
	return r.slots[0].worker
}

// swapped says whether w is a new worker that the roll has put in place; one that fails takes the roll with it.
func (r *roll) swapped(w *Worker) bool {
	return !r.back && slices.ContainsFunc(r.done, func(s step) bool { return s.worker == w.ID })
}

// advance moves the roll on as far as it goes now, and begins the next when there is one.
func (m *Machine) advance() {
	for !m.stopping && m.booted {
		switch {
		case m.roll == nil && len(m.pending) == 0:
			return
		case m.roll == nil:
			r := m.pending[0]
			m.pending = m.pending[1:]
			m.begin(r)
		case len(m.roll.slots) == 0:
			m.end()
		case !m.step():
			return
		}
	}
}

func (m *Machine) begin(r *request) {
	if r.anew {
		m.version++
		m.versions[m.version] = true
		m.do(Open{m.version})
		m.log(slog.LevelInfo, "reload begins")
	}
	m.roll = &roll{ops: r.ops}
	for i, s := range m.slots {
		if r.slot >= 0 && r.slot != i {
			continue
		}
		v := s.version
		if r.anew {
			v = m.version
		}
		m.roll.slots = append(m.roll.slots, step{slot: i, version: v, before: s.version})
	}
}

// step does what there is to do for the slot under way, and says whether anything changed.
func (m *Machine) step() bool {
	st := &m.roll.slots[0]
	s := m.slots[st.slot]
	if st.worker == 0 {
		s.Backoff = time.Time{}
		if s.Current != nil && s.Current.State == Starting {
			// A restart is under way that the roll replaces.
			m.kill(s.Current, "replaced by a reload")
		}
		s.Incoming = m.spawn(st.slot, st.version)
		st.worker = s.Incoming.ID
		return false
	}
	in := s.Incoming
	if in == nil || in.State != Ready || m.now.Before(in.ReadyAt.Add(m.cfg.MinHealthy)) {
		return false
	}
	old := s.Current
	s.Current, s.Incoming, s.version = in, nil, st.version
	if old != nil {
		m.drain(old)
	}
	m.roll.done = append(m.roll.done, *st)
	m.roll.slots = m.roll.slots[1:]
	return true
}

func (m *Machine) end() {
	r := m.roll
	m.roll = nil
	switch {
	case r.cause != nil:
		m.log(slog.LevelError, "reload failed", "error", r.cause)
	case len(r.ops) > 0:
		m.log(slog.LevelInfo, "reload done")
	}
	m.finish(r.ops, r.cause)
}

// rollFailed turns the roll round: what was swapped goes back to what it ran before.
func (m *Machine) rollFailed(err error) {
	r := m.roll
	if r == nil {
		return
	}
	if r.back {
		// The way back fails too: what is in the slot stays.
		r.cause = errors.Join(r.cause, fmt.Errorf("rolling back: %w", err))
		m.leaveSlot()
		return
	}
	r.back, r.cause = true, err
	m.log(slog.LevelError, "reload fails, rolling back", "error", err)
	if len(r.slots) > 0 {
		if in := m.slots[r.slots[0].slot].Incoming; in != nil {
			m.kill(in, "the reload failed")
		}
		m.leaveSlot()
	}
	r.slots = nil
	for _, st := range slices.Backward(r.done) {
		if st.version != st.before {
			r.slots = append(r.slots, step{slot: st.slot, version: st.before, before: st.before})
		}
	}
	r.done = nil
}

// leaveSlot ends the roll's work on its slot. If nothing is left there, the slot restarts by itself.
func (m *Machine) leaveSlot() {
	s := m.slots[m.roll.slots[0].slot]
	m.roll.slots = m.roll.slots[1:]
	if s.Current == nil && s.Backoff.IsZero() {
		s.Backoff = m.now
	}
}
