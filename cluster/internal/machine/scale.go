package machine

import (
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// beginScale retires the last slots at once, or opens slots one after the other, of which each must become healthy.
func (m *Machine) beginScale(r *request) {
	open := m.open()
	to := r.To
	if r.By != 0 {
		to = open + r.By
	}
	if to < 1 || to > maxSlots {
		m.finish(r.Ops, fmt.Errorf("there cannot be %d workers: from 1 to %d", to, maxSlots))
		return
	}
	if to < open && !slices.ContainsFunc(m.slots[:to], func(s *Slot) bool { return serves(s.Current) }) {
		m.finish(r.Ops, fmt.Errorf("none of the %d workers that would be left is ready", to))
		return
	}
	if to != open {
		m.log(slog.LevelInfo, "scale begins", "from", open, "to", to)
		m.do(Resize{to})
	}
	for i := to; i < open; i++ {
		m.retire(i)
	}
	if to <= open {
		m.finish(r.Ops, nil)
		return
	}
	m.roll = &roll{kind: scaling, ops: r.Ops}
	for i := open; i < to; i++ {
		if i == len(m.slots) {
			m.slots = append(m.slots, &Slot{})
		}
		m.slots[i].Retired, m.slots[i].Version, m.slots[i].Crashes = true, m.settled, 0 // open when its step begins
		m.roll.slots = append(m.roll.slots, step{slot: i, version: m.settled, before: m.settled, added: true})
	}
}

// retire closes a slot. Its worker drains once another has adopted its socket.
func (m *Machine) retire(slot int) {
	s := m.slots[slot]
	s.Retired, s.Errored, s.Backoff = true, false, time.Time{}
	old := s.Current
	s.Current = nil
	if old == nil {
		return
	}
	m.adopt()
	if old.State == Starting {
		m.kill(old, "its slot is closed")
	} else {
		m.drain(old)
	}
}
