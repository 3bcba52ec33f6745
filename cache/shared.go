package cache

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// clockTag begins the tags under which the clocks of caches stand in causal scopes.
const clockTag = "cache:"

// shared is a cache's side of the tier that it shares with other processes: what it has heard of invalidations, what it
// could not send, and whether the tier answers.
type shared struct {
	remote       Remote
	space        string
	tag          string // of the clock in causal scopes
	from         string // this cache among the senders of invalidations
	timeout      time.Duration
	clock        *clock
	log          *slog.Logger
	counters     *counters
	evict        func(w what, token, reading string)
	demand       func(token string) // of every load from now on
	stampTTL     time.Duration
	ctx          context.Context // ends at Close
	wg           *sync.WaitGroup
	link         atomic.Pointer[link]
	known        atomic.Pointer[string] // the greatest reading of the clock this process knows of, heard or not
	distrust     atomic.Int64           // until when loads ask the primary: the remote may have lost tokens
	pending      pending
	mu           sync.Mutex
	own          map[string]struct{} // clock readings of own invalidations that are done with, until they are heard
	lastWarnings [warnKinds]atomic.Int64
}

// link is what has been heard, as one value: a reader sees all of it or what was before.
type link struct {
	connected   bool
	epoch       uint64 // grows whenever an invalidation may have been missed
	lostAt      int64  // when that began; when the cache was made at first
	incarnation string
	n           uint64
	at          string // incarnation and n as a position
}

func newShared(remote Remote, space string, timeout time.Duration) *shared {
	s := &shared{remote: remote, space: space, tag: clockTag + space, timeout: timeout, from: newID(), own: make(map[string]struct{})}
	s.link.Store(new(link))
	s.known.Store(new(string))
	return s
}

// newID returns 16 characters that nobody else will come up with.
func newID() string {
	var b [12]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// readingOf is a position of a causal scope's domain: of fixed width, so that it sorts.
func readingOf(incarnation string, n uint64) string {
	var b [8]byte
	for i := range b {
		b[7-i] = byte(n >> (8 * i))
	}
	return incarnation + "." + hex.EncodeToString(b[:])
}

func (s *shared) domain(scope *causal.Scope) causal.Domain { return scope.Domain(s.tag) }

// raise notes that the clock has come this far.
func (s *shared) raise(reading string) {
	for {
		old := s.known.Load()
		if *old >= reading || s.known.CompareAndSwap(old, &reading) {
			return
		}
	}
}

// listen runs until the cache closes.
func (s *shared) listen() {
	for s.ctx.Err() == nil {
		err := s.remote.Listen(s.ctx, s.space, s.handle)
		if s.ctx.Err() == nil {
			s.handle(Event{})
			s.warn(warnListen, "cache: no longer listening for invalidations", err)
			s.sleep(time.Second)
		}
	}
}

// handle is called for one event after the other.
func (s *shared) handle(ev Event) {
	l := *s.link.Load()
	if !ev.Connected {
		if l.connected {
			l.connected, l.lostAt = false, s.clock.now()
			l.epoch++
			s.link.Store(&l)
			s.counters.lossCount.Add(1)
			s.warn(warnLost, "cache: lost the connection for invalidations; memory is checked with the shared tier until it is back", nil)
		}
		return
	}
	inv := ev.Invalidation
	reading := ev.Reading()
	next := l.n
	w := what{inv.Keys, inv.Tags, inv.All}
	if !w.empty() {
		next++
	}
	restarted := l.incarnation != "" && l.incarnation != ev.Incarnation
	switch {
	case !l.connected || restarted:
		l.epoch++
	case ev.N > next: // messages were lost on the way
		l.epoch++
		l.lostAt = s.clock.now()
		s.counters.lossCount.Add(1)
	}
	if !l.connected {
		s.log.Info("cache: hearing invalidations", "cache", s.space)
	}

	// What was invalidated goes before the clock moves: a reader who finds the clock far enough finds the key gone.
	switch own := inv.From == s.from; {
	case w.empty(): // just after connecting: a token that was sent before
		s.demand(inv.Token)
	case own && s.forget(reading):
	default:
		s.evict(w, inv.Token, reading)
		if !own {
			s.counters.heard.Add(uint64(w.len()))
		}
	}
	if l.incarnation == ev.Incarnation {
		ev.N = max(l.n, ev.N) // just after a subscription the clock may be ahead of the messages
	}
	l.connected, l.incarnation, l.n, l.at = true, ev.Incarnation, ev.N, readingOf(ev.Incarnation, ev.N)
	if restarted {
		s.known.Store(&l.at)
		s.distrust.Store(s.clock.now() + int64(tokenTTL))
	} else {
		s.raise(l.at)
	}
	s.link.Store(&l)
	if restarted {
		s.log.Info("cache: the shared tier has started anew; sending recent invalidations again", "cache", s.space)
		s.resend()
	}
}

// remember notes an own invalidation that needs no eviction any more when it is heard.
func (s *shared) remember(reading string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.own) >= 1024 { // nobody hears them
		clear(s.own)
	}
	s.own[reading] = struct{}{}
}

// heard is the reading up to which all invalidations are known here: those heard, and own ones right after them, whose messages
// are still under way.
func (s *shared) heard(l *link) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.own) == 0 || l.at == "" {
		return l.at
	}
	at := l.at
	for n := l.n + 1; ; n++ {
		next := readingOf(l.incarnation, n)
		if _, ok := s.own[next]; !ok {
			return at
		}
		at = next
	}
}

func (s *shared) forget(reading string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.own[reading]
	delete(s.own, reading)
	return ok
}

// call asks the remote, within the time it is given. Whether it is worth asking at all is for the Remote to know: rediscache's
// client stops asking a server that answers nobody.
func (s *shared) call(ctx context.Context, limit time.Duration, ask func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := ask(limited)
	if err != nil && ctx.Err() == nil { // else it says nothing of the remote
		s.counters.remoteErrors.Add(1)
		s.warn(warnAnswer, "cache: the shared tier did not answer", err)
	}
	return err
}

// invalidate sends names and returns the clock's reading.
func (s *shared) invalidate(ctx context.Context, w what, token string) (string, error) {
	var ev Event
	err := s.call(ctx, 4*s.timeout, func(ctx context.Context) (err error) {
		ev, err = s.remote.Invalidate(ctx, s.space, Invalidation{
			Keys: w.keys, Tags: w.tags, All: w.all, Token: token, TokenTTL: tokenTTL, StampTTL: s.stampTTL, From: s.from,
		})
		return err
	})
	if err != nil {
		return "", err
	}
	reading := ev.Reading()
	s.raise(reading)
	return reading, nil
}

func (s *shared) sleep(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
}

// Kinds of warnings.
const (
	warnListen = iota
	warnLost
	warnAnswer
	warnUnshared
	warnKinds
)

// warn logs at most once in ten seconds for each kind.
func (s *shared) warn(kind int, text string, err error) {
	now, last := s.clock.now(), s.lastWarnings[kind].Load()
	if last != 0 && now-last < int64(10*time.Second) || !s.lastWarnings[kind].CompareAndSwap(last, now) {
		return
	}
	attrs := []any{"cache", s.space}
	if err != nil {
		attrs = append(attrs, "error", err)
	}
	s.log.Warn(text, attrs...)
}

// queued says in an error what became of an invalidation that could not be sent.
func queued(name string, err error) error {
	return fmt.Errorf("cache %s: invalidated here, and queued for the other processes: %w", name, err)
}
