package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// memory is a Store in this process.
type memory struct {
	max int

	mu      sync.Mutex
	records map[string]*held
	users   map[string]map[string]bool // tag -> ids
	fences  map[string]fence
	sweepAt time.Time
}

type held struct {
	Record
	expires time.Time // zero: never
}

type fence struct {
	value   int64
	expires time.Time
}

// NewMemory returns a store in this process's memory, for tests and for development: its sessions end with the process and
// no other process sees them. It keeps at most max sessions, 0 means 100,000; one more ends the one that would expire
// first. It has the ability [UserIndex].
func NewMemory(max int) Store {
	if max <= 0 {
		max = 100_000
	}
	return &memory{max: max, records: map[string]*held{}, users: map[string]map[string]bool{}, fences: map[string]fence{}}
}

func name(tag, id string) string { return tag + "/" + id }

// find returns the record if it has not expired. m.mu is held.
func (m *memory) find(tag, id string, now time.Time) *held {
	h := m.records[name(tag, id)]
	if h != nil && !h.expires.IsZero() && !now.Before(h.expires) {
		m.drop(h)
		return nil
	}
	return h
}

func (m *memory) drop(h *held) {
	delete(m.records, name(h.Tag, h.ID))
	m.unlist(h)
}

func (m *memory) unlist(h *held) {
	if ids := m.users[h.Tag]; ids != nil {
		if delete(ids, h.ID); len(ids) == 0 {
			delete(m.users, h.Tag)
		}
	}
}

// show is the record as a caller may have it.
func (h *held) show(now time.Time) Record {
	if h == nil {
		return Record{}
	}
	r := h.Record
	r.Value = slices.Clone(r.Value)
	if !h.expires.IsZero() {
		r.Left = h.expires.Sub(now)
		r.Final = h.expires.Equal(h.Deadline)
	}
	return r
}

// live sets when h expires: left from now, not beyond its Deadline.
func (h *held) live(left time.Duration, now time.Time) {
	h.expires = time.Time{}
	if left > 0 {
		h.expires = now.Add(left)
	}
	if !h.Deadline.IsZero() && (left <= 0 || h.expires.After(h.Deadline)) {
		h.expires = h.Deadline
	}
}

func (m *memory) Load(ctx context.Context, tag, id string) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	return m.find(tag, id, now).show(now), nil
}

func (m *memory) Create(ctx context.Context, r Record) (Record, bool, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if h := m.find(r.Tag, r.ID, now); h != nil {
		return h.show(now), false, nil
	}
	return m.create(r, now)
}

// create stores r, of whose name there is no record. m.mu is held.
func (m *memory) create(r Record, now time.Time) (Record, bool, error) {
	if r.Fence != "" && !m.passes(r.Tag, r.Fence, now) {
		return Record{}, false, ErrRevoked
	}
	m.makeRoom(now)
	h := &held{Record: r}
	h.Version, h.Value, h.Fence, h.Life, h.Limit = 1, slices.Clone(r.Value), "", 0, 0
	if h.Deadline.IsZero() && r.Life > 0 {
		h.Deadline = now.Add(r.Life)
	}
	h.live(r.Left, now)
	if r.User && r.Limit > 0 {
		m.limit(r.Tag, r.Limit-1, now)
	}
	m.records[name(r.Tag, r.ID)] = h
	if r.User {
		if m.users[r.Tag] == nil {
			m.users[r.Tag] = map[string]bool{}
		}
		m.users[r.Tag][r.ID] = true
	}
	return h.show(now), true, nil
}

// limit drops the user's records with the nearest deadlines until at most max remain.
func (m *memory) limit(tag string, max int, now time.Time) {
	var all []*held
	for id := range m.users[tag] {
		if h := m.find(tag, id, now); h != nil {
			all = append(all, h)
		}
	}
	slices.SortFunc(all, func(a, b *held) int {
		if a.Deadline.IsZero() != b.Deadline.IsZero() {
			if a.Deadline.IsZero() {
				return 1
			}
			return -1
		}
		return a.Deadline.Compare(b.Deadline)
	})
	for len(all) > max {
		m.drop(all[0])
		all = all[1:]
	}
}

// makeRoom drops what has expired, once in a while, and if that is not enough the record that would go first.
func (m *memory) makeRoom(now time.Time) {
	if len(m.records) < m.max && now.Before(m.sweepAt) {
		return
	}
	m.sweepAt = now.Add(time.Minute)
	var first *held
	for _, h := range m.records {
		switch {
		case h.expires.IsZero():
		case !now.Before(h.expires):
			m.drop(h)
		case first == nil || h.expires.Before(first.expires):
			first = h
		}
	}
	for tag, f := range m.fences {
		if !now.Before(f.expires) {
			delete(m.fences, tag)
		}
	}
	if len(m.records) >= m.max && first != nil {
		m.drop(first)
	}
}

func (m *memory) CompareAndSwap(ctx context.Context, r Record) (Record, bool, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	h := m.find(r.Tag, r.ID, now)
	if h == nil || h.Version != r.Version || h.Pinned {
		return h.show(now), false, nil
	}
	m.swap(h, r, now)
	return h.show(now), true, nil
}

// swap makes h what r says. m.mu is held.
func (m *memory) swap(h *held, r Record, now time.Time) {
	before := h.expires
	h.Version, h.Value, h.Pinned = r.Version+1, slices.Clone(r.Value), r.Pinned
	h.live(r.Left, now)
	if r.Pinned {
		h.User = false
		m.unlist(h)
	} else if h.expires.Before(before) {
		h.expires = before
	}
}

func (m *memory) Move(ctx context.Context, old, next Record) (Record, bool, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	h := m.find(old.Tag, old.ID, now)
	if h == nil || h.Version != old.Version || h.Pinned {
		return h.show(now), false, nil
	}
	if next.Fence != "" && !m.passes(next.Tag, next.Fence, now) {
		return Record{}, false, ErrRevoked
	}
	m.swap(h, old, now) // before the limit is counted
	return m.create(next, now)
}

func (m *memory) Delete(ctx context.Context, tag, id string) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	h := m.find(tag, id, now)
	if h != nil && !h.Pinned {
		m.drop(h)
	}
	return h.show(now), nil
}

func (m *memory) Touch(ctx context.Context, records []Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	for _, r := range records {
		h := m.find(r.Tag, r.ID, now)
		if h == nil || h.Pinned {
			continue
		}
		if before := h.expires; !before.IsZero() {
			if h.live(r.Left, now); h.expires.Before(before) {
				h.expires = before
			}
		}
	}
	return nil
}

// A fence is the number of the last revocation and the time it was asked for.
func (m *memory) Fence(ctx context.Context, tag string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	return fmt.Sprintf("%d@%d", m.fenceAt(tag, now), now.UnixNano()), ctx.Err()
}

func (m *memory) fenceAt(tag string, now time.Time) int64 {
	if f := m.fences[tag]; now.Before(f.expires) {
		return f.value
	}
	return 0
}

func (m *memory) passes(tag, shown string, now time.Time) bool {
	var value, at int64
	if n, err := fmt.Sscanf(shown, "%d@%d", &value, &at); n != 2 || err != nil {
		return false
	}
	return value == m.fenceAt(tag, now) && now.UnixNano()-at <= int64(loginTime)
}

func (m *memory) Revoke(ctx context.Context, tag string, except []string) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.fences[tag] = fence{max(m.fenceAt(tag, now)+1, now.UnixNano()), now.Add(2 * loginTime)}
	n := 0
	for id := range m.users[tag] {
		if h := m.records[name(tag, id)]; h != nil && !slices.Contains(except, id) {
			m.drop(h)
			n++
		}
	}
	return n, nil
}

func (m *memory) List(ctx context.Context, tag string) ([]Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	var all []Record
	for id := range m.users[tag] {
		if h := m.find(tag, id, now); h != nil {
			all = append(all, h.show(now))
		}
	}
	return all, nil
}
