package session

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// Session is one request's view of its client's session. Nothing is asked of the store before a method is called. It is
// safe for concurrent use by the goroutines of its request.
type Session[T any] struct {
	m     *Manager[T]
	scope *causal.Scope

	loading sync.Mutex // held while the store is asked

	mu       sync.Mutex
	state    state
	raws     [][rawLen]byte // what the cookies held
	token    token
	fresh    bool // token was minted by this request
	snap     *snapshot
	down     error // the store failed when this request looked: the next second's calls do not wait for it again
	downAt   time.Time
	outage   Outage
	failed   bool // the store failed a call of the handler
	used     bool
	deferred []func(*T) error
	cookie   cookieChange
	sent     bool   // the headers have gone
	flagged  bool   // the client wrote a short while ago
	brought  string // causal token that came with the request, outside the session
}

type state int

const (
	unread  state = iota // not looked up yet
	none                 // the client has no session
	active               // snap is it
	rotated              // moved to where this client may not follow
	newer                // in a format of a newer version
	ended                // it ended during this request
	outside              // no middleware
)

type cookieChange int

const (
	keep cookieChange = iota
	set
	clear
)

// Get returns a copy of the session's value: the zero T if the client has no session, or one that ended or was rotated
// away. The first call of a request costs one round trip, the others none. Changes that wait in Defer are not in it.
func (s *Session[T]) Get(ctx context.Context) (T, error) {
	var zero T
	if err := s.use(ctx); err != nil {
		if s.note(err) == Anonymous && errors.Is(err, ErrUnavailable) {
			return zero, nil
		}
		return zero, err
	}
	snap := s.current()
	if snap == nil {
		return zero, nil
	}
	return s.m.decode(snap.format, snap.data)
}

// Update changes the session's value by fn, atomically and durably: what others change at the same time, in this process or
// in another, is neither lost nor overwritten. It returns the value right after fn. fn gets the newest value, may run
// several times and on another goroutine, and should be quick and touch nothing but its argument; an error from it comes
// back unchanged and stores nothing. A client without a session gets one, unless fn leaves the zero value as it is.
//
// After Get it costs one more round trip, alone two. If ctx ends first the error says whether the outcome is unknown.
func (s *Session[T]) Update(ctx context.Context, fn func(*T) error) (v T, err error) {
	defer func() { s.note(err) }()
	if err := s.use(ctx); err != nil {
		return v, err
	}
	return s.change(ctx, fn, s.carry())
}

// change is Update once more and more until the session is where it is expected.
func (s *Session[T]) change(ctx context.Context, fn func(*T) error, causalToken string) (T, error) {
	var zero T
	for {
		if err := ctx.Err(); err != nil {
			return zero, s.m.fail(context.Cause(ctx))
		}
		o := &op[T]{fn: fn, token: causalToken}
		s.mu.Lock()
		switch s.state {
		case none:
			if s.sent {
				s.mu.Unlock()
				return zero, s.m.fail(ErrHeadersSent)
			}
			if !s.fresh {
				keys, err := s.m.secrets(ctx)
				if err != nil {
					s.mu.Unlock()
					return zero, err
				}
				s.token, s.fresh = keys[0].mint(""), true
			}
		case active:
			o.base = s.snap
		default:
			err := s.state.refusal()
			s.mu.Unlock()
			return zero, s.m.fail(err)
		}
		t, fresh := s.token, s.fresh
		s.mu.Unlock()

		err := s.m.do(ctx, t, o)
		if away, ok := errors.AsType[elsewhere](err); ok {
			if err := s.follow(ctx, t, away.at); err != nil {
				return zero, err
			}
			continue
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case err == nil && o.snap != nil && s.token == t:
			if s.state == none {
				s.state, s.cookie = active, set
			}
			if s.snap == nil || o.snap.Version > s.snap.Version {
				s.snap = o.snap
			}
		case errors.Is(err, ErrEnded) && s.token == t:
			s.state, s.snap = ended, nil
		case errors.Is(err, ErrOutcomeUnknown) && fresh && s.state == none:
			// Nobody will ever hold the token of what may have been created.
			s.fresh = false
			if errors.Is(err, ErrUnavailable) {
				err = s.m.fail(ErrUnavailable)
			}
		}
		if err != nil {
			return zero, err
		}
		return o.value, nil
	}
}

func (st state) refusal() error {
	switch st {
	case rotated:
		return ErrRotated
	case newer:
		return errors.Join(ErrUnavailable, errForeign)
	case outside:
		return errNoMiddleware
	}
	return ErrEnded
}

// Defer keeps fn for the moment before the response's headers go out; all that was deferred is then one Update. If that
// fails, the client gets one 503 in place of the handler's response (409 if the session has ended or was rotated). When
// the handler panics before that moment, nothing is stored.
func (s *Session[T]) Defer(fn func(*T) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.m.closed.Load():
		return s.m.fail(ErrClosed)
	case s.state == outside:
		return s.m.fail(errNoMiddleware)
	case s.sent:
		return s.m.fail(ErrHeadersSent)
	}
	s.used = true
	s.deferred = append(s.deferred, fn)
	return nil
}

// Logout ends the session and removes the client's cookie. When it returns nil no request, however long on its way, can
// bring the session back. After the headers have gone the cookie stays, worth nothing. A client without a session is fine.
func (s *Session[T]) Logout(ctx context.Context) (err error) {
	defer func() { s.note(err) }()
	if err := s.use(ctx); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		t, st := s.token, s.state
		if st == rotated {
			s.mu.Unlock()
			return s.m.fail(ErrRotated) // and the cookie, which may be the new one by now, stays
		}
		s.deferred = nil
		if st != active && st != newer {
			if len(s.raws) > 0 || s.cookie == set {
				s.cookie = clear
			}
			if st == none {
				s.state = ended
			}
			s.mu.Unlock()
			return nil
		}
		s.mu.Unlock()
		found, err := s.m.remove(ctx, t)
		if err != nil {
			return err
		}
		if found != nil && found.kind == moved { // a rotation was faster
			if err := s.follow(ctx, t, found); err != nil {
				return err
			}
			continue
		}
		s.mu.Lock()
		if found != nil && s.flagged {
			s.brought, _ = causal.Merge(s.brought, found.causal)
		}
		if s.token == t {
			s.state, s.snap, s.cookie = ended, nil, clear
		}
		s.mu.Unlock()
		s.m.watches.wake(t.tag)
		s.m.n.logouts.Add(1)
		return nil
	}
}

// remove deletes the record and returns what it found, nil if nothing.
func (m *Manager[T]) remove(ctx context.Context, t token) (found *snapshot, err error) {
	err = m.call(ctx, func(ctx context.Context) error {
		r, err := m.store.Delete(ctx, t.tag, t.id())
		if err != nil || r.Version == 0 {
			return err
		}
		found, err = m.open(r)
		return err
	})
	return found, err
}

// current returns the session's record, nil if there is none.
func (s *Session[T]) current() *snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != active {
		return nil
	}
	return s.snap
}

// note keeps that the store failed a call of the handler, and returns what the route wants then.
func (s *Session[T]) note(err error) Outage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrOutcomeUnknown) {
		s.failed = true
	}
	return s.outage
}

// use notes that the response depends on the session, and loads it.
func (s *Session[T]) use(ctx context.Context) error {
	s.mu.Lock()
	s.used = true
	s.mu.Unlock()
	return s.load(ctx)
}

// load looks the session up, once a request.
func (s *Session[T]) load(ctx context.Context) error {
	if s.m.closed.Load() {
		return s.m.fail(ErrClosed)
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	s.mu.Lock()
	st, down, raws := s.state, s.down, s.raws
	if time.Since(s.downAt) > time.Second {
		down = nil
	}
	s.mu.Unlock()
	switch {
	case st == outside:
		return s.m.fail(errNoMiddleware)
	case st != unread:
		return nil
	case down != nil:
		return down
	}
	for _, raw := range raws {
		found := false
		t, snap, err := s.m.find(ctx, raw)
		if err == nil && snap != nil {
			found, err = s.settle(ctx, t, snap)
		}
		if err != nil {
			if errors.Is(err, ErrUnavailable) {
				s.mu.Lock()
				s.down, s.downAt = err, time.Now()
				s.mu.Unlock()
			}
			return err
		}
		if found {
			return nil
		}
	}
	s.mu.Lock()
	s.state = none
	s.mu.Unlock()
	return nil
}

// follow is settle for a record that turned out, during the request, not to be live any more.
func (s *Session[T]) follow(ctx context.Context, t token, at *snapshot) error {
	s.loading.Lock()
	defer s.loading.Unlock()
	s.mu.Lock()
	overtaken := s.token != t // another goroutine of this request has been here
	s.mu.Unlock()
	if overtaken {
		return nil
	}
	found, err := s.settle(ctx, t, at)
	if err == nil && !found {
		s.mu.Lock()
		s.state, s.snap = ended, nil
		s.mu.Unlock()
	}
	return err
}

// settle finds the session that t, whose record is at, stands for, and notes what it is. If there is none it notes nothing.
func (s *Session[T]) settle(ctx context.Context, t token, at *snapshot) (found bool, err error) {
	note := func(st state, c cookieChange) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.state, s.token, s.snap, s.fresh = st, t, at, false
		if c == set && s.cookie == keep {
			s.cookie = set
		}
	}
	cookie := keep
	for range 8 { // rotations within the grace time of the first
		switch at.kind {
		case live:
			note(active, cookie)
			return true, nil
		case foreign:
			note(newer, keep)
			return true, nil
		case pending:
			now, err := s.m.rollForward(ctx, at)
			if err != nil || now == nil {
				return false, err
			}
			at = now
		case moved:
			raw, ok := t.unseal(at.link)
			if !ok {
				note(rotated, keep)
				return true, nil
			}
			next, now, err := s.m.find(ctx, raw)
			if err != nil || now == nil {
				return false, err
			}
			t, at, cookie = next, now, set // the response with the new cookie may have been lost
		}
	}
	return false, nil
}

// runDeferred stores what Defer kept.
func (s *Session[T]) runDeferred(ctx context.Context) (err error) {
	s.mu.Lock()
	fns := s.deferred
	s.deferred = nil
	s.mu.Unlock()
	if len(fns) == 0 {
		return nil
	}
	if err := s.load(ctx); err != nil {
		return err
	}
	defer func() {
		if p := recover(); p != nil {
			s.m.o.Logger.Error("session: a deferred change panicked", "name", s.m.o.Name, "panic", p)
			err = errors.New("session: a deferred change panicked")
		}
	}()
	fns = slices.Clone(fns)
	_, err = s.change(ctx, func(v *T) error {
		for _, fn := range fns {
			if err := fn(v); err != nil {
				return err
			}
		}
		return nil
	}, s.carry())
	return err
}
