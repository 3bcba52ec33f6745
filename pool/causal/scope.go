package causal

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Scope is what one request, job or conversation has written and read so far. It only grows. All methods are safe for
// concurrent use, and on a nil Scope, where they do nothing: code that takes part need not ask whether there is one.
type Scope struct {
	used    atomic.Bool // false: nothing was ever added, and a reader needs no lock
	mu      sync.Mutex
	written set
	seen    set
	pending []*capture
}

// capture is a write whose position is not known yet.
type capture struct {
	tag  string
	done chan struct{}
}

type scopeKey struct{}

// Begin returns a context that carries a new, empty scope, in place of any that ctx has.
func Begin(ctx context.Context) (context.Context, *Scope) {
	s := new(Scope)
	return context.WithValue(ctx, scopeKey{}, s), s
}

// From returns the scope that ctx carries, or nil.
func From(ctx context.Context) *Scope {
	s, _ := ctx.Value(scopeKey{}).(*Scope)
	return s
}

// Token returns what the scope in ctx has written and read, as text for a job, a message or another service to hand to
// [AtLeast]. It waits until the positions of all writes so far are known, or until ctx ends, which is its error then. A
// context without a scope is an error too: reads after it could not have been kept track of.
//
// The text is letters, digits and ":._-=,*". Seal it ([Options.Seal]) where somebody untrusted can change it.
func Token(ctx context.Context) (string, error) {
	s := From(ctx)
	if s == nil {
		return "", errors.New("causal: the context carries no scope: use Begin, causal.Middleware or the session's middleware")
	}
	if !s.settle(ctx) {
		return "", context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.seen.clone()
	all.merge(s.written)
	return all.String(), nil
}

// AtLeast adds a token to the scope in ctx, and opens a scope if there is none: reads through the returned context see
// everything that the token's owner had written and read. A token that was not made by [Token] is [ErrMalformed].
func AtLeast(ctx context.Context, token string) (context.Context, error) {
	s := From(ctx)
	if s == nil {
		ctx, s = Begin(ctx)
	}
	return ctx, s.Saw(token)
}

// Written returns the token of what the scope itself wrote, "" if that is nothing. It waits until the positions of all
// writes so far are known; if ctx ends first, the token demands the primary, and no cache memory, for the next 10 s instead.
func (s *Scope) Written(ctx context.Context) string {
	if s == nil || !s.used.Load() {
		return ""
	}
	settled := s.settle(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if settled {
		return s.written.String()
	}
	w := s.written.clone()
	w.raiseAll(time.Now().Add(distrust))
	return w.String()
}

// Seen returns the token of what the scope has read, and of what [AtLeast] demanded of it.
func (s *Scope) Seen() string {
	if s == nil || !s.used.Load() {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen.String()
}

// Saw adds what a read, or an earlier part of the conversation, has seen. An invalid token is [ErrMalformed].
func (s *Scope) Saw(token string) error { return s.add(token, false) }

// Wrote adds what was written on the scope's behalf elsewhere. An invalid token is [ErrMalformed].
func (s *Scope) Wrote(token string) error { return s.add(token, true) }

func (s *Scope) add(token string, wrote bool) error {
	t, err := parse(token)
	if err != nil || s == nil || t.empty() {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used.Store(true)
	if wrote {
		s.written.merge(t)
	} else {
		s.seen.merge(t)
	}
	return nil
}

// settle waits for the captures in flight now and says whether all came to an end before ctx did.
func (s *Scope) settle(ctx context.Context) bool {
	s.mu.Lock()
	var waits []chan struct{}
	for _, c := range s.pending {
		waits = append(waits, c.done)
	}
	s.mu.Unlock()
	for _, done := range waits {
		select {
		case <-done:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Domain returns the scope's view of one system with positions of its own: a database, a cache's clock. tag names that
// system, the same in every process that shares it: at most 64 letters, digits and ":._-".
//
// The pool of this module and its cache take part this way, and so may any other store: before a read, ask [Domain.Bound]
// and answer from something at or past it; after the read call [Domain.Saw]; after a write call [Domain.Wrote], or
// [Domain.Pending] while its position is still being found out.
func (s *Scope) Domain(tag string) Domain { return Domain{s, tag} }

// Domain is one system's part of a [Scope]. The zero value, and that of a nil Scope, demands nothing and keeps nothing.
type Domain struct {
	scope *Scope
	tag   string
}

// Active says whether there is a scope to raise: if not, positions need not be found out.
func (d Domain) Active() bool { return d.scope != nil }

// Bound returns the position that a read has to be at or past, "" if any will do. If settled is false the position of a
// write is not known yet, or never will be: only the authority (the primary; no cache memory) will do.
func (d Domain) Bound() (position string, settled bool) {
	s := d.scope
	if s == nil || !s.used.Load() {
		return "", true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	settled = !s.written.distrusts() && !s.seen.distrusts()
	for _, c := range s.pending {
		if c.tag == d.tag {
			settled = false
		}
	}
	return max(s.written.at(d.tag), s.seen.at(d.tag)), settled
}

// Wrote raises what the scope has written to position. Positions of a tag are compared as strings, so they must have one
// fixed width; a malformed one counts as unknown: see [Domain.Pending].
func (d Domain) Wrote(position string) { d.raise(position, true) }

// Saw raises what the scope has read to position; see [Domain.Wrote].
func (d Domain) Saw(position string) { d.raise(position, false) }

func (d Domain) raise(position string, wrote bool) {
	s := d.scope
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raiseLocked(d.tag, position, wrote)
}

func (s *Scope) raiseLocked(tag, position string, wrote bool) {
	s.used.Store(true)
	to := &s.seen
	if wrote {
		to = &s.written
	}
	if !wellFormed(tag) || !wellFormed(position) {
		to.raiseAll(time.Now().Add(distrust))
		return
	}
	to.raise(tag, position)
}

// Pending says that a write has happened whose position is being found out. The returned function must be called once,
// with the position, or with "" if it cannot be known: then the scope demands the authority for 10 s.
func (d Domain) Pending() (resolve func(position string)) {
	s := d.scope
	if s == nil {
		return func(string) {}
	}
	c := &capture{tag: d.tag, done: make(chan struct{})}
	s.mu.Lock()
	s.used.Store(true)
	s.pending = append(s.pending, c)
	s.mu.Unlock()
	var once sync.Once
	return func(position string) {
		once.Do(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.raiseLocked(c.tag, position, true)
			for i := range s.pending {
				if s.pending[i] == c {
					s.pending = append(s.pending[:i], s.pending[i+1:]...)
					break
				}
			}
			close(c.done)
		})
	}
}
