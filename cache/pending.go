package cache

import (
	"sync"
	"time"
)

const (
	maxBatch = 500 // keys or tags in one call of Remote.Invalidate

	// What was sent is kept a while, for a remote that comes back from a failure without what it had acknowledged.
	recentFor = time.Minute
	maxRecent = 10_000 // keys and tags

	maxPending = 100_000 // keys and tags; beyond them everything is invalidated
)

// pending is the invalidations that the remote has not confirmed, and those that it confirmed lately. While a key is
// pending, this process neither reads nor stores it in the remote, and while a tag is, it reads no record that has it. Where
// there are too many, one invalidation of everything stands for them all.
type pending struct {
	mu      sync.Mutex
	queued  [2]map[string]waiting // keys, tags
	all     *waiting
	added   uint64
	sending bool

	recent  []sent
	count   int   // keys and tags in recent
	dropped *sent // stands for what recent had to drop before its time
}

const (
	pendingKeys = iota
	pendingTags
)

type waiting struct {
	token string
	n     uint64 // tells it from one that came later for the same key
}

type sent struct {
	at    int64
	what  what
	token string
}

func (p *pending) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lenLocked()
}

func (p *pending) lenLocked() int {
	n := len(p.queued[pendingKeys]) + len(p.queued[pendingTags])
	if p.all != nil {
		n++
	}
	return n
}

// has says whether the remote must be passed by for a key.
func (p *pending) has(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.queued[pendingKeys][name]
	return ok || p.all != nil
}

// hasTag says whether one of a record's tags, or everything, is invalidated without the remote's knowing.
func (p *pending) hasTag(tags []string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, tag := range tags {
		if _, ok := p.queued[pendingTags][tag]; ok {
			return true
		}
	}
	return p.all != nil
}

// took keeps what was sent for resend.
func (p *pending) took(now int64, w what, token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recent = append(p.recent, sent{now, w, token})
	p.count += w.len()
	drop := 0
	for drop < len(p.recent)-1 && (p.count > maxRecent || now-p.recent[drop].at > int64(recentFor)) {
		if r := p.recent[drop]; now-r.at <= int64(recentFor) {
			if p.dropped != nil {
				r.token = merged(r.token, p.dropped.token)
			}
			p.dropped = &sent{r.at, what{all: true}, r.token}
		}
		p.count -= p.recent[drop].what.len()
		drop++
	}
	if drop > 0 {
		p.recent = append([]sent(nil), p.recent[drop:]...)
	}
}

// queue adds what is to be sent, and sees to it that somebody does.
func (s *shared) queue(w what, token string) {
	p := &s.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	for kind, names := range [...][]string{pendingKeys: w.keys, pendingTags: w.tags} {
		if p.queued[kind] == nil {
			p.queued[kind] = make(map[string]waiting)
		}
		for _, name := range names {
			p.added++
			p.queued[kind][name] = waiting{merged(p.queued[kind][name].token, token), p.added}
		}
	}
	if w.all || p.lenLocked() > maxPending {
		if !w.all {
			s.log.Warn("cache: too many invalidations wait for a shared tier that does not take them; everything will be invalidated",
				"cache", s.space, "waiting", p.lenLocked())
		}
		p.everything(token)
	}
	s.send()
}

// everything has one invalidation of everything stand for what is queued. p.mu is held.
func (p *pending) everything(token string) {
	for kind := range p.queued {
		for _, w := range p.queued[kind] {
			token = merged(token, w.token)
		}
		clear(p.queued[kind])
	}
	if p.all != nil {
		token = merged(token, p.all.token)
	}
	p.added++
	p.all = &waiting{token, p.added}
}

// resend queues what was sent lately.
func (s *shared) resend() {
	p := &s.pending
	now := s.clock.now()
	p.mu.Lock()
	recent := p.recent
	if p.dropped != nil {
		recent = append(recent, *p.dropped)
	}
	p.recent, p.count, p.dropped = nil, 0, nil
	p.mu.Unlock()
	for _, r := range recent {
		if now-r.at <= int64(recentFor) {
			s.queue(r.what, r.token)
		}
	}
}

// send starts the sender; p.mu is held.
func (s *shared) send() {
	if s.pending.sending || s.pending.lenLocked() == 0 || s.ctx.Err() != nil {
		return
	}
	s.pending.sending = true
	s.wg.Go(func() {
		for pause := 50 * time.Millisecond; ; {
			w, token, last := s.pending.batch()
			if w.empty() {
				return
			}
			reading, err := s.invalidate(s.ctx, w, token)
			if s.ctx.Err() != nil {
				return
			}
			if err != nil {
				s.sleep(pause)
				pause = min(2*pause, time.Second)
				continue
			}
			pause = 50 * time.Millisecond
			s.evict(w, "", reading)
			s.remember(reading)
			s.pending.took(s.clock.now(), w, token)
			s.pending.done(w, last)
			s.counters.replayed.Add(uint64(w.len()))
		}
	})
}

// batch returns some of what is to be sent, with the tokens merged; nothing means that the sender has ended.
func (p *pending) batch() (w what, token string, last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all != nil {
		return what{all: true}, p.all.token, p.added
	}
	var tokens []string
	take := func(kind int) (names []string) {
		for name, q := range p.queued[kind] {
			if len(names) == maxBatch {
				break
			}
			names, tokens = append(names, name), append(tokens, q.token)
		}
		return names
	}
	w.keys = take(pendingKeys)
	if len(w.keys) == 0 {
		w.tags = take(pendingTags)
	}
	p.sending = !w.empty()
	return w, merged(tokens...), p.added
}

// done forgets what was sent, but not what came after last.
func (p *pending) done(w what, last uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.all && p.all.n <= last {
		p.all = nil
	}
	for kind, names := range [...][]string{pendingKeys: w.keys, pendingTags: w.tags} {
		for _, name := range names {
			if p.queued[kind][name].n <= last {
				delete(p.queued[kind], name)
			}
		}
	}
}
