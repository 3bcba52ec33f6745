package cache

import (
	"hash/maphash"
	"slices"
	"sync/atomic"
)

// stamps is what this process has heard of invalidations of tags and of everything. Each gets a number of this process's
// own; a load notes the last one before it begins, and what it brought is good while none of its tags has a greater one. Tags
// that share a slot cost each other a look in the remote, or a load, no more.
type stamps struct {
	seed  maphash.Seed
	last  atomic.Uint64
	floor atomic.Uint64 // of the last invalidation of everything
	slots []atomic.Uint64
}

// tagSlots is how many tags can be told apart: half a megabyte a cache that uses them.
const tagSlots = 1 << 16

func newStamps(tagged bool) *stamps {
	s := &stamps{seed: maphash.MakeSeed()}
	if tagged {
		s.slots = make([]atomic.Uint64, tagSlots)
	}
	return s
}

func (s *stamps) slot(tag string) *atomic.Uint64 {
	return &s.slots[maphash.String(s.seed, tag)%tagSlots]
}

// marks returns the slots of tags, for an entry to keep.
func (s *stamps) marks(tags []string) []*atomic.Uint64 {
	if len(tags) == 0 || s.slots == nil {
		return nil
	}
	marks := make([]*atomic.Uint64, len(tags))
	for i, tag := range tags {
		marks[i] = s.slot(tag)
	}
	return marks
}

// move makes useless what began before and has one of the tags, or whatever began before.
func (s *stamps) move(tags []string, all bool) {
	n := s.last.Add(1)
	if all {
		raise(&s.floor, n)
	}
	for _, tag := range tags {
		if s.slots == nil { // values may have tags that another process gave them
			raise(&s.floor, n)
			return
		}
		raise(s.slot(tag), n)
	}
}

func raise(a *atomic.Uint64, n uint64) {
	for {
		old := a.Load()
		if old >= n || a.CompareAndSwap(old, n) {
			return
		}
	}
}

func spoilt(marks []*atomic.Uint64, since uint64) bool {
	for _, m := range marks {
		if m.Load() > since {
			return true
		}
	}
	return false
}

// maxTags is how many tags a value may have.
const maxTags = 64

// boundedTags returns tags as they are stored, none twice.
func boundedTags(tags []string) []string {
	if len(tags) == 0 {
		return nil
	}
	all := make([]string, len(tags))
	for i, tag := range tags {
		all[i] = bounded(tag)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
