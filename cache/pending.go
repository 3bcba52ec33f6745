package cache

import (
	"sync"
	"time"
)

const (
	maxBatch = 500 // keys in one call of Remote.Invalidate

	// What was sent is kept a while, for a remote that comes back from a failure without what it had acknowledged.
	recentFor = time.Minute
	maxRecent = 10_000 // keys

	manyPending = 100_000 // keys, of which is warned
)

// pending is the invalidations that the remote has not confirmed, and those that it confirmed lately. While a key is
// pending, this process neither reads nor stores it in the remote. The number of keys has no bound: one that is dropped would
// leave its old record to every process, and a remote has no way to drop all records of a space.
type pending struct {
	mu      sync.Mutex
	keys    map[string]waiting
	added   uint64
	sending bool
	warned  bool // that there are many, since there were none
	recent  []sent
	count   int // keys in recent
}

type waiting struct {
	token string
	n     uint64 // tells it from one that came later for the same key
}

type sent struct {
	at    int64
	names []string
	token string
}

func (p *pending) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.keys)
}

func (p *pending) has(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.keys[name]
	return ok
}

// took keeps what was sent for resend.
func (p *pending) took(now int64, names []string, token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recent = append(p.recent, sent{now, names, token})
	p.count += len(names)
	drop := 0
	for drop < len(p.recent)-1 && (p.count > maxRecent || now-p.recent[drop].at > int64(recentFor)) {
		p.count -= len(p.recent[drop].names)
		drop++
	}
	if drop > 0 {
		p.recent = append([]sent(nil), p.recent[drop:]...)
	}
}

// queue adds invalidations to send, and sees to it that somebody does.
func (s *shared) queue(names []string, token string) {
	p := &s.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.keys == nil {
		p.keys = make(map[string]waiting)
	}
	for _, name := range names {
		p.added++
		p.keys[name] = waiting{merged(p.keys[name].token, token), p.added}
	}
	if len(p.keys) > manyPending && !p.warned {
		p.warned = true
		s.log.Warn("cache: invalidations pile up in memory for a shared tier that does not take them", "cache", s.space, "keys", len(p.keys))
	}
	s.send()
}

// resend queues what was sent lately.
func (s *shared) resend() {
	p := &s.pending
	p.mu.Lock()
	recent := p.recent
	p.recent, p.count = nil, 0
	p.mu.Unlock()
	now := s.clock.now()
	for _, r := range recent {
		if now-r.at <= int64(recentFor) {
			s.queue(r.names, r.token)
		}
	}
}

// send starts the sender; p.mu is held.
func (s *shared) send() {
	if s.pending.sending || len(s.pending.keys) == 0 || s.ctx.Err() != nil {
		return
	}
	s.pending.sending = true
	s.wg.Go(func() {
		for pause := 50 * time.Millisecond; ; {
			names, token, last := s.pending.batch()
			if len(names) == 0 {
				return
			}
			reading, err := s.invalidate(s.ctx, names, token)
			if s.ctx.Err() != nil {
				return
			}
			if err != nil {
				s.sleep(pause)
				pause = min(2*pause, time.Second)
				continue
			}
			pause = 50 * time.Millisecond
			for _, name := range names {
				s.evict(name, "")
			}
			s.remember(reading)
			s.pending.took(s.clock.now(), names, token)
			s.pending.done(names, last)
			s.counters.replayed.Add(uint64(len(names)))
		}
	})
}

// batch returns some of what is to be sent, with their tokens merged; nothing means that the sender has ended.
func (p *pending) batch() (names []string, token string, last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	tokens := make([]string, 0, min(len(p.keys), maxBatch))
	for name, w := range p.keys {
		if len(names) == maxBatch {
			break
		}
		names, tokens = append(names, name), append(tokens, w.token)
	}
	p.sending = len(names) > 0
	return names, merged(tokens...), p.added
}

// done forgets what was sent, but not what came after last.
func (p *pending) done(names []string, last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, name := range names {
		if p.keys[name].n <= last {
			delete(p.keys, name)
		}
	}
	if len(p.keys) == 0 {
		p.warned = false
	}
}
