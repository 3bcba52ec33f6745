package ratelimit

import (
	"context"
	"sync"
	"time"
)

const (
	leaseShards = 16
	leaseKeys   = 4096 // a shard; keys beyond them are asked for one by one
)

// leases are the permits that this process took in advance, by key. The time of a lease counts from before it was asked for, so the
// store granted its permits no earlier than that and nothing is used more than Options.Lease after it was granted.
type leases struct {
	r      *remote
	life   time.Duration
	shards [leaseShards]leaseShard
}

type leaseShard struct {
	mu   sync.Mutex
	keys map[uint64]*lease
}

type lease struct {
	rules []Rule
	left  int
	until time.Duration // since remote.start
	d     Decision      // of the store, for the permits that are left

	// What this process needs in the life of a lease: permits asked for in the current span of that length, and in the one before.
	began     time.Duration
	now, last int

	asking *asking
}

// asking is a question to the store that others with the same key wait for.
type asking struct {
	done chan struct{}
	err  error // the store's failure
}

func newLeases(r *remote, life time.Duration) *leases { return &leases{r: r, life: life} }

func (l *leases) take(ctx context.Context, hash uint64, ask Ask) (Decision, []Rule, error) {
	s := &l.shards[hash%leaseShards]
	for first := true; ; first = false {
		now := time.Since(l.r.start)
		s.mu.Lock()
		le := s.find(hash, now, l.life)
		if le == nil {
			s.mu.Unlock()
			d, err := l.r.takeStore(ctx, hash, ask)
			return l.result(ctx, ask, d, err)
		}
		if first {
			le.demand(now, ask.Cost, l.life)
		}
		if now < le.until && le.left >= ask.Cost && sameRules(le.rules, ask.Rules) {
			le.left -= ask.Cost
			d := le.d
			d.Granted, d.from = ask.Cost, fromLease
			d.Remaining = min(d.Remaining+le.left, d.Limit)
			s.mu.Unlock()
			l.r.l.counts.leased.Add(1)
			return d, ask.Rules, nil
		}
		if a := le.asking; a != nil {
			s.mu.Unlock()
			select {
			case <-a.done:
			case <-ctx.Done():
				return Decision{}, ask.Rules, ctx.Err()
			}
			if a.err != nil {
				return l.r.without(ask, a.err)
			}
			continue
		}
		want := le.want(ask)
		if want <= ask.Cost {
			s.mu.Unlock()
			d, err := l.r.takeStore(ctx, hash, ask)
			return l.result(ctx, ask, d, err)
		}
		a := &asking{done: make(chan struct{})}
		le.asking = a
		s.mu.Unlock()

		more := ask
		more.Most = want
		d, err := l.r.takeStore(ctx, hash, more)
		s.mu.Lock()
		le.asking = nil
		if err == nil && d.Allowed {
			le.rules, le.left, le.until, le.d = ask.Rules, d.Granted-ask.Cost, now+l.life, d
			d.Remaining = min(d.Remaining+le.left, d.Limit)
			d.Granted = ask.Cost
		}
		if err != nil && ctx.Err() == nil {
			a.err = err
		}
		s.mu.Unlock()
		close(a.done)
		return l.result(ctx, ask, d, err)
	}
}

func (l *leases) result(ctx context.Context, ask Ask, d Decision, err error) (Decision, []Rule, error) {
	if err != nil && ctx.Err() == nil {
		return l.r.without(ask, err)
	}
	return d, ask.Rules, err
}

// holdOff makes a refusal last until there may be permits enough for a lease, half a lease's life at most. Else a fleet that wants
// more than the limit would ask for every single permit as it drains. Nothing is lost: the bucket has room for what drains until
// then.
func (l *leases) holdOff(d Decision, ask Ask) Decision {
	leak, unit := ask.Rules[d.Rule].Units()
	quarter := micros(mulDiv(int64(maxCost(ask.Rules)/4), unit, leak))
	d.RetryAfter = max(d.RetryAfter, min(l.life/2, quarter))
	d.ResetAfter = max(d.ResetAfter, d.RetryAfter)
	return d
}

// giveBack puts permits into the lease they came from, if it still lives.
func (l *leases) giveBack(hash uint64, ask Ask) {
	s := &l.shards[hash%leaseShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if le := s.keys[hash]; le != nil && le.d.At == ask.At && time.Since(l.r.start) < le.until {
		le.left += ask.Cost
	}
}

func sameRules(a, b []Rule) bool {
	if len(a) != len(b) {
		return false
	}
	if &a[0] == &b[0] {
		return true
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// find returns the lease of a key, a new one if there is room.
func (s *leaseShard) find(hash uint64, now, life time.Duration) *lease {
	if le := s.keys[hash]; le != nil {
		return le
	}
	if s.keys == nil {
		s.keys = make(map[uint64]*lease)
	}
	n := 0
	for h, le := range s.keys { // a few, at random
		if le.asking == nil && now-le.began > 2*life && now >= le.until {
			delete(s.keys, h)
		}
		if n++; n == 4 {
			break
		}
	}
	if len(s.keys) >= leaseKeys {
		return nil
	}
	le := &lease{began: now}
	s.keys[hash] = le
	return le
}

func (le *lease) demand(now time.Duration, cost int, life time.Duration) {
	switch passed := now - le.began; {
	case passed >= 2*life:
		le.began, le.last, le.now = now, 0, 0
	case passed >= life:
		le.began, le.last, le.now = le.began+life, le.now, 0
	}
	le.now += cost
}

// want is how many permits to ask for: what is needed in a lease's life, at most a quarter of each burst. No more than the cost
// means that the question is for this request alone.
func (le *lease) want(ask Ask) int { return min(max(le.last, le.now), maxCost(ask.Rules)/4) }
