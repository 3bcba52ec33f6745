package sessiontest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairlead/fairlead/session"
)

func TestMemory(t *testing.T) {
	Run(t, func(*testing.T) session.Store { return session.NewMemory(0) })
}

// The broken stores stand on a whole one and spoil one thing each.

type whole interface {
	session.Store
	session.UserIndex
}

// upserting stores what CompareAndSwap does not find.
type upserting struct{ whole }

func (s upserting) CompareAndSwap(ctx context.Context, r session.Record) (session.Record, bool, error) {
	now, swapped, err := s.whole.CompareAndSwap(ctx, r)
	if err == nil && !swapped && now.Version == 0 {
		return s.whole.Create(ctx, r)
	}
	return now, swapped, err
}

// reviving touches by writing back what it has read.
type reviving struct {
	whole
	mu   *sync.Mutex
	seen map[string]session.Record
}

func (s reviving) Load(ctx context.Context, tag, id string) (session.Record, error) {
	r, err := s.whole.Load(ctx, tag, id)
	if r.Version > 0 {
		s.mu.Lock()
		s.seen[id] = r
		s.mu.Unlock()
	}
	return r, err
}

func (s reviving) Touch(ctx context.Context, records []session.Record) error {
	for _, r := range records {
		s.mu.Lock()
		old, ok := s.seen[r.ID]
		s.mu.Unlock()
		if now, err := s.whole.Load(ctx, r.Tag, r.ID); err == nil && now.Version == 0 && ok {
			old.Left = r.Left
			s.whole.Create(ctx, old)
		}
	}
	return s.whole.Touch(ctx, records)
}

// hesitant checks the fence first and creates later.
type hesitant struct{ whole }

func (s hesitant) Create(ctx context.Context, r session.Record) (session.Record, bool, error) {
	if r.Fence == "" {
		return s.whole.Create(ctx, r)
	}
	probe := named()
	probe.Tag, probe.Fence = r.Tag, r.Fence
	if _, _, err := s.whole.Create(ctx, probe); err != nil {
		return session.Record{}, false, err
	}
	time.Sleep(time.Millisecond)
	r.Fence = ""
	return s.whole.Create(ctx, r)
}

// looking revokes what it found when it looked.
type looking struct{ whole }

func (s looking) Revoke(ctx context.Context, tag string, except []string) (int, error) {
	all, err := s.whole.List(ctx, tag)
	if err != nil {
		return 0, err
	}
	time.Sleep(time.Millisecond)
	var spared []string
	now, err := s.whole.List(ctx, tag)
	if err != nil {
		return 0, err
	}
	for _, r := range now {
		if !slices.ContainsFunc(all, func(old session.Record) bool { return old.ID == r.ID }) {
			spared = append(spared, r.ID)
		}
	}
	return s.whole.Revoke(ctx, tag, append(spared, except...))
}

// unlisted creates the record and forgets the index, as a crash between the two would.
type unlisted struct{ whole }

func (s unlisted) Create(ctx context.Context, r session.Record) (session.Record, bool, error) {
	r.User = false
	return s.whole.Create(ctx, r)
}

// stale answers reads from what it read before.
type stale struct {
	whole
	mu   *sync.Mutex
	seen map[string]session.Record
}

func (s stale) Load(ctx context.Context, tag, id string) (session.Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.seen[id]; ok {
		return r, nil
	}
	r, err := s.whole.Load(ctx, tag, id)
	if r.Version > 0 && r.Left > 10*time.Second {
		s.seen[id] = r
	}
	return r, err
}

// blind swaps whatever the version.
type blind struct{ whole }

func (s blind) CompareAndSwap(ctx context.Context, r session.Record) (session.Record, bool, error) {
	for {
		now, err := s.whole.Load(ctx, r.Tag, r.ID)
		if err != nil || now.Version == 0 || now.Pinned {
			return now, false, err
		}
		r.Version = now.Version
		if now, swapped, err := s.whole.CompareAndSwap(ctx, r); swapped || err != nil {
			return now, swapped, err
		}
	}
}

// shortening sets the life to what a touch or a change asks for.
type shortening struct{ whole }

func (s shortening) Touch(ctx context.Context, records []session.Record) error {
	for _, r := range records {
		now, err := s.whole.Load(ctx, r.Tag, r.ID)
		if err != nil || now.Version == 0 {
			return err
		}
		s.whole.Delete(ctx, r.Tag, r.ID)
		now.Left = r.Left
		s.whole.Create(ctx, now)
	}
	return nil
}

// counting makes room for a login before it creates.
type counting struct{ whole }

func (s counting) Create(ctx context.Context, r session.Record) (session.Record, bool, error) {
	if r.Limit == 0 {
		return s.whole.Create(ctx, r)
	}
	all, err := s.whole.List(ctx, r.Tag)
	if err != nil {
		return session.Record{}, false, err
	}
	slices.SortFunc(all, func(a, b session.Record) int { return a.Deadline.Compare(b.Deadline) })
	for len(all) >= r.Limit {
		s.whole.Delete(ctx, all[0].Tag, all[0].ID)
		all = all[1:]
	}
	time.Sleep(time.Millisecond)
	r.Limit = 0
	return s.whole.Create(ctx, r)
}

// strolling moves in two steps.
type strolling struct{ whole }

func (s strolling) Move(ctx context.Context, old, next session.Record) (session.Record, bool, error) {
	now, swapped, err := s.whole.CompareAndSwap(ctx, old)
	if err != nil || !swapped {
		return now, false, err
	}
	time.Sleep(time.Millisecond)
	return s.whole.Create(ctx, next)
}

func TestBrokenStoresFail(t *testing.T) {
	for _, c := range []struct {
		name  string
		store func(whole) session.Store
		rules []string // that have to notice
	}{
		{"whole", func(w whole) session.Store { return w }, nil},
		{"upserting", func(w whole) session.Store { return upserting{w} }, []string{"SwapNeverCreates", "Expiry"}},
		{"reviving", func(w whole) session.Store { return reviving{w, new(sync.Mutex), map[string]session.Record{}} }, []string{"TouchNeverRevives"}},
		{"not atomic", func(w whole) session.Store { return hesitant{w} }, []string{"CreateOrRevoke"}},
		{"looking", func(w whole) session.Store { return looking{w} }, []string{"RotateOrRevoke"}},
		{"unlisted", func(w whole) session.Store { return unlisted{w} }, []string{"Revoke", "IndexOutlivesItsRecords"}},
		{"stale", func(w whole) session.Store { return stale{w, new(sync.Mutex), map[string]session.Record{}} }, []string{"ReadsAreNew"}},
		{"blind", func(w whole) session.Store { return blind{w} }, []string{"Swap"}},
		{"counting", func(w whole) session.Store { return counting{w} }, []string{"LimitHoldsForConcurrentLogins"}},
		{"strolling", func(w whole) session.Store { return strolling{w} }, []string{"Move", "MoveOrRevoke"}},
		{"shortening", func(w whole) session.Store { return shortening{w} }, []string{"Touch"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			failed := map[string]error{}
			for _, r := range rules {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if err := r.check(ctx, c.store(session.NewMemory(0).(whole))); err != nil {
					failed[r.name] = err
				}
				cancel()
			}
			if c.rules == nil && len(failed) > 0 {
				t.Errorf("a whole store failed: %v", failed)
			}
			for _, name := range c.rules {
				if failed[name] == nil {
					t.Errorf("rule %s did not notice; others: %v", name, failed)
				}
			}
		})
	}
}
