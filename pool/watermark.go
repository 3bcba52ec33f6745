package pool

import (
	"sync"
	"time"

	"github.com/fairlead/fairlead/pool/internal/lsn"
)

// samples remembers where the primary's log was when, which tells how stale a replica is without anybody's clock: whoever
// has replayed a sample's position has everything that was committed before its time.
type samples struct {
	mu  sync.Mutex
	all []sample // by time
}

type sample struct {
	at  time.Time // of this process, before the position was asked for
	pos lsn.Position
}

const (
	maxSamples = 512
	sampleGap  = 2 * time.Millisecond
)

func (s *samples) add(at time.Time, pos lsn.Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.all); n > 0 && at.Sub(s.all[n-1].at) < sampleGap {
		return
	}
	s.all = append(s.all, sample{at, pos})
	if len(s.all) <= maxSamples {
		return
	}
	// Thin out: between neighbours an eighth of their age may pass, so a few hundred reach back for years.
	newest, kept := at, s.all[:1]
	for i := 1; i < len(s.all); i++ {
		if i+1 < len(s.all) && s.all[i+1].at.Sub(kept[len(kept)-1].at) <= newest.Sub(s.all[i+1].at)/8 {
			continue
		}
		kept = append(kept, s.all[i])
	}
	clear(s.all[len(kept):])
	s.all = kept
}

func (s *samples) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = nil
}

// newestAt returns the time of the newest sample that a replica at pos has reached; zero if there is none.
func (s *samples) newestAt(pos lsn.Position) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.all) - 1; i >= 0; i-- {
		if pos.Reaches(s.all[i].pos) {
			return s.all[i].at
		}
	}
	return time.Time{}
}
