package machine

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

type kind string

const (
	reloading kind = "reload"  // new workers, of the executable as it is when the turn comes
	upgrading kind = "upgrade" // the same, and then this process executes it
	replacing kind = "replace" // a successor of one worker, of the executable that its slot runs
	scaling   kind = "scale"   // other slots
)

// request is what waits for its turn to be the roll.
type request struct {
	Kind   kind
	Ops    []string
	Slot   int // to reload, all if negative
	Worker int // to replace
	To, By int // to scale: the number of slots, or if By is not 0 the difference
}

// roll replaces the workers of some slots, one slot at a time: a new worker, ready, healthy for a while, and only then the
// old one drains. The first slot is the canary. When a new worker fails, the slots that were swapped are rolled back.
type roll struct {
	kind  kind
	ops   []string
	whole bool   // the version is for all slots
	slots []step // the first is under way
	done  []step // swapped
	back  bool
	cause error // of the rolling back

	checking  bool // the executable is being asked whether it can be upgraded to
	executing bool // nothing is left but to execute it
}

// step is one slot of a roll.
type step struct {
	slot    int
	version int  // that the new worker runs
	before  int  // that the slot ran
	added   bool // the slot is one that the roll opens
	parted  int  // ID of the old worker, which drains before the new one starts
	worker  int  // ID of the new worker, 0 before it was spawned
}

func (m *Machine) request(r *request) {
	if m.stopping {
		m.finish(r.Ops, ErrStopping)
		return
	}
	for _, p := range m.pending {
		if p.Kind == r.Kind && r.Kind != scaling && p.Worker == r.Worker && (p.Slot < 0 || p.Slot == r.Slot) {
			p.Ops = append(p.Ops, r.Ops...)
			return
		}
	}
	m.pending = append(m.pending, r)
}

// replace asks for a successor of a worker that is up, and ends one that is not yet.
func (m *Machine) replace(id int) {
	w := m.workers[id]
	if w == nil || m.stopping || w.up() && m.rolling(w.Slot) {
		return
	}
	switch s := m.slots[w.Slot]; {
	case s.Current == w && w.up():
		m.request(&request{Kind: replacing, Slot: w.Slot, Worker: id})
	case w.State == Starting:
		// It serves nobody: its end counts as that of any worker that does not become ready.
		m.failed(w, "told to end before it was ready")
	}
}

// rolling says whether a roll is at work on the slot.
func (m *Machine) rolling(slot int) bool {
	return m.roll != nil && len(m.roll.slots) > 0 && m.roll.slots[0].slot == slot && !m.roll.checking
}

// swapped says whether w is a new worker that the roll has put in place; one that fails takes the roll with it.
func (r *roll) swapped(w *Worker) bool {
	return !r.back && slices.ContainsFunc(r.done, func(s step) bool { return s.worker == w.ID })
}

// advance moves the roll on as far as it goes now, and begins the next when there is one.
func (m *Machine) advance() {
	for !m.stopping && m.booted {
		switch r := m.roll; {
		case r == nil && len(m.pending) == 0:
			return
		case r == nil:
			next := m.pending[0]
			m.pending = m.pending[1:]
			m.begin(next)
		case r.checking || r.executing:
			return
		case len(r.slots) > 0:
			if !m.step() {
				return
			}
		case r.kind == upgrading && r.cause == nil:
			r.executing = true
			m.do(Exec{m.version})
		default:
			m.end()
		}
	}
}

func (m *Machine) begin(r *request) {
	switch r.Kind {
	case scaling:
		m.beginScale(r)
		return
	case replacing:
		if w := m.workers[r.Worker]; w == nil || m.slots[w.Slot].Current != w {
			return // it has gone by itself
		}
	default:
		if n := m.open(); r.Slot >= n {
			m.finish(r.Ops, fmt.Errorf("there is no slot %d: they are 0 to %d", r.Slot, n-1))
			return
		}
		m.version++
		m.versions[m.version] = true
		m.do(Open{m.version})
		m.log(slog.LevelInfo, string(r.Kind)+" begins")
	}
	m.roll = &roll{kind: r.Kind, ops: r.Ops, whole: r.Slot < 0}
	for i, s := range m.slots {
		if s.Retired || r.Slot >= 0 && r.Slot != i {
			continue
		}
		v := s.Version
		if r.Kind != replacing {
			v = m.version
		}
		m.roll.slots = append(m.roll.slots, step{slot: i, version: v, before: s.Version})
	}
	if r.Kind == upgrading {
		m.roll.checking = true
		m.do(Check{m.version})
	}
}

// step does what there is to do for the slot under way, and says whether anything changed.
func (m *Machine) step() bool {
	st := &m.roll.slots[0]
	s := m.slots[st.slot]
	if st.worker == 0 {
		s.Backoff, s.Errored, s.Retired = time.Time{}, false, false
		if s.Current != nil && s.Current.State == Starting {
			// A restart is under way that the roll replaces.
			m.kill(s.Current, "replaced by a reload")
		}
		if s.Current != nil && m.oneByOne(st.slot) {
			old := s.Current
			st.parted = old.ID
			s.Current = nil
			m.adopt() // reassign first, drain second
			m.drain(old)
		}
		if m.workers[st.parted] != nil {
			return false
		}
		s.Incoming = m.spawn(st.slot, st.version)
		st.worker = s.Incoming.ID
		return false
	}
	in := s.Incoming
	if !serves(in) || !m.passes(s) || m.now.Before(m.swapAt(s)) {
		return false
	}
	old := s.Current
	s.Current, s.Incoming = in, nil
	if s.Version != st.version {
		s.Version, s.Crashes = st.version, 0
	}
	if old != nil {
		m.drain(old)
	}
	m.roll.done = append(m.roll.done, *st)
	m.roll.slots = m.roll.slots[1:]
	return true
}

// oneByOne says whether the slot's old worker ends before its successor starts: for want of memory, or because that is
// wanted. Another slot must serve meanwhile.
func (m *Machine) oneByOne(slot int) bool {
	if !m.cfg.OneByOne && (m.cfg.Room == nil || m.cfg.Room(m.slots[slot].Current.Memory)) {
		return false
	}
	for i, s := range m.slots {
		if i != slot && serves(s.Current) {
			return true
		}
	}
	return false
}

func (m *Machine) end() {
	r := m.roll
	m.roll = nil
	switch {
	case r.cause != nil:
		m.log(slog.LevelError, string(r.kind)+" failed", "error", r.cause)
	case r.kind != replacing:
		m.log(slog.LevelInfo, string(r.kind)+" done")
	}
	if r.cause == nil && r.whole && (r.kind == reloading || r.kind == upgrading) {
		m.settled = m.version
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
	r.back, r.cause, r.executing = true, err, false
	m.log(slog.LevelError, string(r.kind)+" fails, rolling back", "error", err)
	if len(r.slots) > 0 {
		if in := m.slots[r.slots[0].slot].Incoming; in != nil {
			m.kill(in, "the "+string(r.kind)+" failed")
		}
		m.leaveSlot()
	}
	r.slots = nil
	for _, st := range slices.Backward(r.done) {
		switch {
		case st.added:
			m.retire(st.slot)
		case st.version != st.before:
			r.slots = append(r.slots, step{slot: st.slot, version: st.before, before: st.before})
		}
	}
	r.done = nil
	if r.kind == scaling {
		m.do(Resize{m.open()})
	}
}

// leaveSlot ends the roll's work on its slot. If nothing is left there, the slot restarts by itself.
func (m *Machine) leaveSlot() {
	st := m.roll.slots[0]
	m.roll.slots = m.roll.slots[1:]
	s := m.slots[st.slot]
	switch {
	case st.added:
		m.retire(st.slot)
	case s.Current == nil && s.Backoff.IsZero():
		s.Backoff = m.now
	}
}
