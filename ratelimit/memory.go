package ratelimit

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/bits"
	"sync"
	"time"
)

// Memory is a [Store] for one process. A decision allocates nothing and holds one of 64 locks for well under a microsecond.
//
// It holds no more than the number of rates given to [NewMemory] (a joined limit has several a key). A key whose bucket has
// drained is as good as one never seen and makes room; when there is none, the key that would drain first of a few picked at
// random is dropped, which grants it a fresh burst: keys that a flood made up go before those that used up their limit.
//
// Keys are not stored, only 64-bit hashes of them under a seed of this process: two of a million keys share a bucket with a
// probability of 3 in 100 million, and then the limit is only stricter for them.
type Memory struct {
	seed   maphash.Seed
	start  time.Time
	keys   int
	shards [numShards]shard
}

const (
	numShards   = 64
	defaultKeys = 1 << 20
	sweepEvery  = 16 // decisions of a shard between two looks at a few of its cells
	sweepCells  = 4
	evictCells  = 8
	shrinkAt    = 1024 // cells a shard must have had before its map is made anew to give memory back
	golden      = 0x9E3779B97F4A7C15
	mixName     = 0xA0761D6478BD642F
	mixKey      = 0xE7037ED1A0B428DB
	shardShift  = 64 - 6
)

type shard struct {
	mu      sync.Mutex
	cells   map[uint64]cell
	held    map[uint64]*flights // permits in flight
	peak    int                 // most cells since the map was made
	tick    uint32
	evicted uint64
	_       [64 - 48]byte // a cache line of its own
}

// cell is the state of a rate or a quota. Of a quota leak is 0, at is when the unit began (in microseconds since 1970) and unit when
// it ends (by the store's clock).
type cell struct {
	level, at  int64 // units; microseconds of the store's clock
	leak, unit int64
}

func (c cell) drainsAt() int64 {
	if c.leak == 0 {
		return c.unit
	}
	return c.at + ceilDiv(c.level, c.leak)
}

// NewMemory returns a Memory for at most keys rates, about 100 bytes each; 0 means 1,048,576, less than 64 is raised to
// 64, and a negative number is reported by [New]. Several limiters may share one.
func NewMemory(keys int) *Memory {
	m := &Memory{seed: maphash.MakeSeed(), start: time.Now(), keys: keys}
	if keys == 0 {
		m.keys = defaultKeys
	}
	return m
}

// Supports implements the optional part of [Store]: a Memory counts everything.
func (m *Memory) Supports(Rule) bool { return true }

// Check implements the optional part of [Store].
func (m *Memory) Check() error {
	if m == nil {
		return fmt.Errorf("NewMemory: is nil")
	}
	if m.keys < 0 {
		return fmt.Errorf("NewMemory(%d): must be >= 0 (0 means %d)", m.keys, defaultKeys)
	}
	return nil
}

// Take implements [Store].
func (m *Memory) Take(_ context.Context, ask Ask) (Decision, error) {
	if len(ask.Rules) < 1 || len(ask.Rules) > maxRules {
		return Decision{}, fmt.Errorf("ratelimit: %d rules: must be 1 to %d", len(ask.Rules), maxRules)
	}
	return m.take(ask), nil
}

// len is how many rates are held, drained ones included.
func (m *Memory) len() int {
	n := 0
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += len(s.cells) + len(s.held)
		s.mu.Unlock()
	}
	return n
}

func (m *Memory) evicted() (n uint64) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		n += s.evicted
		s.mu.Unlock()
	}
	return n
}

// found is what a decision knows of a key.
type found struct {
	levels, waits [maxRules]int64
	starts, ends  [maxRules]int64 // of quotas: the unit's, in microseconds since 1970 and of the store's clock
	known         [maxRules]bool
}

func (m *Memory) take(ask Ask) Decision {
	h := m.hash(ask.Name, ask.Key)
	s := &m.shards[h>>shardShift]
	var f found

	s.mu.Lock()
	// Read under the lock, so that time never runs backwards for a cell.
	now := time.Since(m.start).Microseconds()
	n := int64(ask.most())
	for i, r := range ask.Rules {
		_, unit := r.Units()
		full := int64(r.Burst) * unit
		s.find(&f, i, h, r, ask.ID, now)
		n = min(n, (full-f.levels[i])/unit)
	}
	granted := 0
	if n >= int64(ask.Cost) {
		granted = int(n)
		for i, r := range ask.Rules {
			leak, unit := r.Units()
			f.levels[i] += n * unit
			if r.TTL != 0 {
				f.waits[i] = max(f.waits[i], s.hold(h, ask.ID, granted, now, r.TTL, m.perShard()))
				continue
			}
			if !f.known[i] {
				s.makeRoom(now, m.perShard())
			}
			c := cell{level: f.levels[i], at: now, leak: leak, unit: unit}
			if r.Unit != 0 {
				c.at, c.leak, c.unit = f.starts[i], 0, f.ends[i]
			}
			s.cells[h+uint64(i)*golden] = c
		}
	}
	if s.tick++; s.tick%sweepEvery == 0 {
		s.sweep(now)
	}
	s.mu.Unlock()
	d := ask.Decide(granted, f.levels[:len(ask.Rules)], f.waits[:len(ask.Rules)])
	d.At = now
	return d
}

// find reads the level of a rule into f.
func (s *shard) find(f *found, i int, h uint64, r Rule, id string, now int64) {
	leak, unit := r.Units()
	full := int64(r.Burst) * unit
	if r.TTL != 0 {
		f.levels[i], f.waits[i] = s.held[h].count(now, id)
		f.levels[i] = min(f.levels[i], full)
		return
	}
	c, ok := s.cells[h+uint64(i)*golden]
	f.known[i] = ok
	if r.Unit == 0 {
		f.levels[i] = c.levelAt(now, leak, unit, full)
		return
	}
	wall := time.Now()
	start, end := r.Window(wall)
	f.starts[i], f.waits[i] = start.UnixMicro(), end.Sub(wall).Microseconds()+1
	f.ends[i] = now + f.waits[i]
	if c.leak == 0 && c.at == f.starts[i] {
		f.levels[i] = min(c.level, full)
	}
}

// Return implements [Store].
func (m *Memory) Return(_ context.Context, ask Ask) error {
	m.giveBack(ask)
	return nil
}

func (m *Memory) giveBack(ask Ask) {
	h := m.hash(ask.Name, ask.Key)
	s := &m.shards[h>>shardShift]
	var f found
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Since(m.start).Microseconds()
	for i, r := range ask.Rules {
		if r.TTL != 0 {
			s.release(h, ask.ID)
			continue
		}
		s.find(&f, i, h, r, ask.ID, now)
		at := h + uint64(i)*golden
		c, ok := s.cells[at]
		switch {
		case !ok:
		case r.Unit == 0:
			leak, unit := r.Units()
			back := int64(ask.Cost)*unit - min(now-ask.At, int64(ask.Cost)*unit/leak+1)*leak
			s.cells[at] = cell{level: max(0, f.levels[i]-max(0, back)), at: now, leak: leak, unit: unit}
		case c.leak == 0 && c.at == f.starts[i] && now-ask.At <= time.Since(time.UnixMicro(f.starts[i])).Microseconds():
			c.level = max(0, c.level-int64(ask.Cost))
			s.cells[at] = c
		}
	}
}

func (m *Memory) perShard() int { return max(m.keys, numShards) / numShards }

func (m *Memory) hash(name, key string) uint64 {
	hi, lo := bits.Mul64(maphash.String(m.seed, name)^mixName, maphash.String(m.seed, key)^mixKey)
	return hi ^ lo
}

// levelAt is what is left of c at now, counted in units of which leak drain a microsecond, and cut to full. The zero cell is empty.
func (c cell) levelAt(now, leak, unit, full int64) int64 {
	if c.level == 0 || c.leak == 0 {
		return 0
	}
	level := c.level
	if c.unit != unit { // the limit has changed
		if bits.Len64(uint64(c.level/c.unit))+bits.Len64(uint64(unit)) > 61 {
			level = full // more than fits an int64, and so than fits the bucket
		} else {
			level = mulDiv(c.level, unit, c.unit) + 1
		}
	}
	level = min(level, full)
	elapsed := now - c.at
	if elapsed > level/leak {
		return 0
	}
	return level - elapsed*leak
}

// makeRoom keeps a new cell within most.
func (s *shard) makeRoom(now int64, most int) {
	if s.cells == nil {
		s.cells = make(map[uint64]cell)
	}
	s.sweep(now)
	if len(s.cells) >= most {
		s.evict(now)
	}
	s.peak = max(s.peak, len(s.cells)+1)
}

// sweep looks at a few cells, in the random order of a map, and drops those that have drained or timed out. It runs at each new key and now and
// then besides, so that drained cells stay a bounded part of all.
func (s *shard) sweep(now int64) {
	n := 0
	for h, c := range s.cells {
		if c.drainsAt() <= now {
			delete(s.cells, h)
		}
		if n++; n == sweepCells {
			break
		}
	}
	n = 0
	for h, f := range s.held {
		if level, _ := f.count(now, ""); level == 0 {
			delete(s.held, h)
		}
		if n++; n == sweepCells {
			break
		}
	}
	if s.peak >= shrinkAt && len(s.cells) < s.peak/4 {
		cells := make(map[uint64]cell, len(s.cells))
		for h, c := range s.cells {
			cells[h] = c
		}
		s.cells, s.peak = cells, len(cells)
	}
}

// evict drops the cell that drains first of a few. A cell written at this very moment may be another rule of the same key.
func (s *shard) evict(now int64) {
	var victim uint64
	first, n := int64(-1), 0
	for h, c := range s.cells {
		if at := c.drainsAt(); first < 0 || c.at != now && at < first {
			victim, first = h, at
		}
		if n++; n == evictCells {
			break
		}
	}
	delete(s.cells, victim)
	s.evicted++
}
