package session

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"
)

// grace is how long the pointer at a rotated id lives: requests that were on their way with the old cookie find it.
const grace = 30 * time.Second

// Login is a login that has begun.
type Login struct {
	begun  atomic.Bool
	commit func(context.Context) error
}

// BeginLogin begins a login of the user, before the password is checked: if the user's sessions are revoked from here on,
// Commit refuses. userID is any name of the user that does not change; it is stored only as a keyed digest.
func (s *Session[T]) BeginLogin(ctx context.Context, userID string) (*Login, error) {
	if err := s.use(ctx); err != nil {
		return nil, err
	}
	keys, err := s.m.secrets(ctx)
	if err != nil {
		return nil, err
	}
	tag, fence := keys[0].userTag(userID), ""
	if index, ok := s.m.store.(UserIndex); ok {
		err := s.m.call(ctx, func(ctx context.Context) (err error) {
			fence, err = index.Fence(ctx, tag)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return &Login{commit: func(ctx context.Context) error { return s.login(ctx, tag, fence) }}, nil
}

// Commit completes the login, after the password was checked: the client gets a new session of that user, under a new id,
// with the value of its anonymous one (or of an earlier one of the same user; another user's value stays behind), and the
// old id is worth nothing from then on. It has to come before the response's headers, within 15 minutes of BeginLogin, and
// works once.
func (l *Login) Commit(ctx context.Context) error {
	if l.begun.Swap(true) {
		return errors.New("session: Login.Commit was called twice")
	}
	return l.commit(ctx)
}

func (s *Session[T]) login(ctx context.Context, tag, fence string) error {
	if s.m.closed.Load() {
		return s.m.fail(ErrClosed)
	}
	r := Record{Tag: tag, User: true, Life: s.m.o.Absolute, Fence: fence}
	if err := s.renew(ctx, r, false); err != nil {
		return err
	}
	s.m.n.logins.Add(1)
	return nil
}

// Rotate gives the session a new id, for a change of what its client may do. Login does so by itself. For 30 s requests that
// still bring the old id find a user's session by it; with an anonymous one's they get ErrRotated. The value, and the
// absolute end, stay. Without a session there is nothing to do.
func (s *Session[T]) Rotate(ctx context.Context) error {
	if err := s.use(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	st, snap := s.state, s.snap
	s.mu.Unlock()
	switch st {
	case none:
		return nil
	case active:
	default:
		return s.m.fail(st.refusal())
	}
	r := Record{Tag: snap.Tag, User: snap.User, Deadline: snap.Deadline}
	return s.renew(ctx, r, snap.User)
}

// renew moves the session to a new record like r, in three steps that a crash may part: the successor is created, pending;
// the predecessor becomes a pointer, which decides it; the successor becomes live. linked: the pointer leads to it.
func (s *Session[T]) renew(ctx context.Context, r Record, linked bool) error {
	keys, err := s.m.secrets(ctx)
	if err != nil {
		return err
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	s.mu.Lock()
	old, oldToken, st := s.snap, s.token, s.state
	if s.sent {
		s.mu.Unlock()
		return s.m.fail(ErrHeadersSent)
	}
	s.mu.Unlock()
	if st == rotated || st == newer {
		return s.m.fail(st.refusal())
	}
	if st != active {
		old = nil
	}

	next := keys[0].mint(r.Tag)
	r.ID, r.Left = next.id(), s.m.o.Idle
	e := envelope{kind: live, created: time.Now(), data: s.m.zero}
	if old != nil {
		e.kind, e.link = pending, []byte(old.Tag+"/"+old.ID)
		s.m.inherit(&e, r, old)
	}
	now, how, err := s.m.write(r, e, rand.Uint64())
	if how != stored {
		return err
	}
	if old != nil {
		if now, err = s.m.supersede(now, old, oldToken, next, linked); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.token, s.snap, s.fresh, s.cookie = active, next, now, false, set
	return nil
}

// inherit gives a successor what it takes over: the value unless it is another user's, and what the client has written.
func (m *Manager[T]) inherit(e *envelope, r Record, old *snapshot) {
	e.causal = old.causal
	if !old.User || old.Tag == r.Tag {
		e.data = old.data
	}
}

// supersede is the second and the third step. next is the token of the pending successor.
func (m *Manager[T]) supersede(successor, old *snapshot, oldToken, next token, linked bool) (*snapshot, error) {
	abandon := func(err error) (*snapshot, error) {
		if _, rmErr := m.remove(context.Background(), next); rmErr != nil {
			m.o.Logger.Debug("session: an abandoned login is left to expire", "name", m.o.Name, "error", rmErr)
		}
		return nil, m.fail(err)
	}
	for {
		pointer := envelope{kind: moved, ring: old.ring, created: old.created, causal: old.causal}
		if linked {
			pointer.link = oldToken.seal(next)
		}
		r := old.Record
		r.Pinned, r.Left, r.Fence = true, grace, ""
		now, how, err := m.write(r, pointer, rand.Uint64())
		switch {
		case how == stored:
			return m.activate(successor)
		case how != conflict:
			return nil, err // whoever finds the successor knows by the predecessor whether this was done
		case now == nil:
			return abandon(ErrEnded)
		case now.kind != live:
			return abandon(ErrRotated)
		}
		// Somebody changed the old session since: copy again.
		old = now
		e := successor.envelope
		m.inherit(&e, successor.Record, old)
		r = successor.Record
		r.Left = m.o.Idle
		if now, how, err = m.write(r, e, rand.Uint64()); how != stored {
			if how == conflict {
				return abandon(ErrRevoked) // only a revocation touches a pending record
			}
			return nil, err
		}
		successor = now
	}
}

// activate is the third step. That it has to be done is settled already, so if it fails the next request does it.
func (m *Manager[T]) activate(successor *snapshot) (*snapshot, error) {
	e := successor.envelope
	e.kind, e.link = live, nil
	r := successor.Record
	r.Left = m.o.Idle
	now, how, _ := m.write(r, e, rand.Uint64())
	switch {
	case how == conflict && now == nil:
		return nil, m.fail(ErrRevoked)
	case how == stored || how == conflict:
		return now, nil
	}
	return successor, nil
}

// rollForward completes what was cut off before the third step. It returns nil if the second did not happen.
func (m *Manager[T]) rollForward(ctx context.Context, at *snapshot) (*snapshot, error) {
	tag, id, _ := strings.Cut(string(at.link), "/")
	old, err := m.read(ctx, tag, id)
	if err != nil || old != nil && old.kind != moved {
		return nil, err
	}
	e := at.envelope
	e.kind, e.link = live, nil
	r := at.Record
	r.Left = m.o.Idle
	now, how, err := m.write(r, e, rand.Uint64())
	if how == stored || how == conflict {
		return now, nil
	}
	return nil, err
}
