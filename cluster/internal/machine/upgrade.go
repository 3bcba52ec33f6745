package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// checked goes on with an upgrade to an executable that says it can take over.
func (m *Machine) checked(version int, err error) {
	r := m.roll
	if r == nil || !r.checking || version != m.version {
		return
	}
	r.checking = false
	if err != nil {
		r.cause, r.slots = fmt.Errorf("the new program: %w", err), nil
	}
}

// execFailed goes back to the executable that this process still runs.
func (m *Machine) execFailed(err error) {
	if m.roll != nil && m.roll.executing {
		m.rollFailed(err)
	}
}

// state is what the machine of the next executable needs.
type state struct {
	Slots    []*Slot
	LastID   int
	Booted   bool
	Versions map[int]bool
	Version  int
	Pending  []*request
	Done     []string
}

// State is the machine for [Restore], when an upgrade has come so far that nothing is left but to execute the new program.
func (m *Machine) State() (json.RawMessage, error) {
	if m.roll == nil || !m.roll.executing {
		return nil, errors.New("the upgrade has been overtaken")
	}
	b, err := json.Marshal(state{
		Slots: m.slots, LastID: m.lastID, Booted: m.booted, Versions: m.versions, Version: m.version,
		Pending: m.pending, Done: m.roll.ops,
	})
	if err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	return b, nil
}

// Restore is the machine whose State that was. Its first message has to be Resume.
func Restore(cfg Config, b json.RawMessage) (*Machine, error) {
	var st state
	if err := json.Unmarshal(b, &st); err != nil {
		return nil, fmt.Errorf("machine: %w", err)
	}
	cfg.Workers = 0
	m := New(cfg)
	m.slots, m.lastID, m.booted = st.Slots, st.LastID, st.Booted
	m.versions, m.version, m.settled = st.Versions, st.Version, st.Version
	m.pending, m.resumed = st.Pending, st.Done
	for _, s := range m.slots {
		for _, w := range append([]*Worker{s.Current, s.Incoming}, s.Draining...) {
			if w != nil {
				m.workers[w.ID] = w
			}
		}
	}
	return m, nil
}

// resume is the first thing after an upgrade. Nobody was listened to while it happened.
func (m *Machine) resume() {
	for _, id := range slices.Sorted(mapKeys(m.workers)) {
		w := m.workers[id]
		if w.up() {
			w.Beat = m.now
		}
		if serves(w) && len(w.Adopted) > 0 { // it may not have heard of that yet
			m.do(Adopt{id, w.Adopted})
		}
	}
	m.log(slog.LevelInfo, "upgrade done")
	m.finish(m.resumed, nil)
	m.resumed = nil
}

// release lets executables go that nothing runs or would be started from.
func (m *Machine) release() {
	used := map[int]bool{m.settled: true}
	for _, s := range m.slots {
		used[s.Version] = true
	}
	for _, w := range m.workers {
		used[w.Version] = true
	}
	if m.roll != nil {
		used[m.version] = true
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
