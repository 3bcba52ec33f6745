package ratelimit

import "time"

// flights are the permits in flight of one key.
type flights struct{ all []flight }

type flight struct {
	id    string
	n     int64
	until int64 // microseconds of the store's clock
}

// count drops what has timed out, and returns the permits still held, but for those of id, and when the last of them times out.
func (f *flights) count(now int64, id string) (held, wait int64) {
	if f == nil {
		return 0, 0
	}
	kept := f.all[:0]
	for _, one := range f.all {
		if one.until > now {
			kept = append(kept, one)
			if one.id != id {
				held += one.n
			}
			wait = max(wait, one.until-now)
		}
	}
	clear(f.all[len(kept):])
	f.all = kept
	return held, wait
}

// hold notes n permits and returns when they time out.
func (s *shard) hold(h uint64, id string, n int, now int64, ttl time.Duration, most int) (wait int64) {
	f := s.held[h]
	if f == nil {
		if s.held == nil {
			s.held = make(map[uint64]*flights)
		}
		if len(s.held) >= most {
			for victim := range s.held {
				delete(s.held, victim)
				s.evicted++
				break
			}
		}
		f = new(flights)
		s.held[h] = f
	}
	wait = ttl.Microseconds()
	for i, one := range f.all {
		if one.id == id { // asked again
			f.all[i] = flight{id, int64(n), now + wait}
			return wait
		}
	}
	f.all = append(f.all, flight{id, int64(n), now + wait})
	return wait
}

// release lets go of what was taken with an id.
func (s *shard) release(h uint64, id string) {
	f := s.held[h]
	if f == nil {
		return
	}
	for i, one := range f.all {
		if one.id == id {
			last := len(f.all) - 1
			f.all[i] = f.all[last]
			f.all[last] = flight{}
			f.all = f.all[:last]
			break
		}
	}
	if len(f.all) == 0 {
		delete(s.held, h)
	}
}
