package session

import (
	"context"
	"errors"
	"slices"
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
func (s *Session[T]) BeginLogin(ctx context.Context, userID string) (l *Login, err error) {
	defer func() { s.note(err) }()
	if err := s.use(ctx); err != nil {
		return nil, err
	}
	keys, err := s.m.secrets(ctx)
	if err != nil {
		return nil, err
	}
	r := Record{Tag: keys[0].userTag(userID), User: true, Life: s.m.o.Absolute, Limit: s.m.o.MaxSessions}
	if index, ok := s.m.store.(UserIndex); ok {
		err := s.m.call(ctx, func(ctx context.Context) (err error) {
			r.Fence, err = index.Fence(ctx, r.Tag)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	var tags []string // the user's, by all keys
	for _, k := range keys {
		tags = append(tags, k.userTag(userID))
	}
	return &Login{commit: func(ctx context.Context) error { return s.login(ctx, r, keys[0], tags) }}, nil
}

// Commit completes the login, after the password was checked: the client gets a new session of that user, under a new id,
// with the value of its anonymous one (or of an earlier one of the same user; another user's value stays behind), and the
// old id is worth nothing from then on. It has to come before the response's headers, within 15 minutes of BeginLogin, and
// works once. See Options.MaxSessions for the sessions that it may end.
func (l *Login) Commit(ctx context.Context) error {
	if l.begun.Swap(true) {
		return errors.New("session: Login.Commit was called twice")
	}
	return l.commit(ctx)
}

func (s *Session[T]) login(ctx context.Context, r Record, key tokenKey, tags []string) (err error) {
	defer func() { s.note(err) }()
	if s.m.closed.Load() {
		return s.m.fail(ErrClosed)
	}
	same := func(old *snapshot) bool { return !old.User || slices.Contains(tags, old.Tag) }
	if err := s.renew(key.mint(r.Tag), r, same, false); err != nil {
		return err
	}
	if r.Limit > 0 {
		s.m.watches.wake(r.Tag)
	}
	s.m.n.logins.Add(1)
	return nil
}

// Rotate gives the session a new id, for a change of what its client may do. Login does so by itself. For 30 s requests that
// still bring the old id find a user's session by it; with an anonymous one's they get ErrRotated. The value, and the
// absolute end, stay. Without a session there is nothing to do.
func (s *Session[T]) Rotate(ctx context.Context) (err error) {
	defer func() { s.note(err) }()
	if err := s.use(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	st, snap, t := s.state, s.snap, s.token
	s.mu.Unlock()
	switch st {
	case none:
		return nil
	case active:
	default:
		return s.m.fail(st.refusal())
	}
	keys, err := s.m.secrets(ctx)
	if err != nil {
		return err
	}
	// The key stays too: when it is dropped, no session may be left that RevokeUser, by the user's newer tag, does not find.
	key := keys[0]
	for _, k := range keys {
		if k.number() == t.raw[0] && k.open(t.raw) == t {
			key = k
		}
	}
	r := Record{Tag: snap.Tag, User: snap.User, Deadline: snap.Deadline}
	return s.renew(key.mint(r.Tag), r, func(*snapshot) bool { return true }, snap.User)
}

// renew moves the session to a new record like r, with the token next. same says whether the old value may come along;
// linked: the old id leads to the new one for a while.
func (s *Session[T]) renew(next token, r Record, same func(old *snapshot) bool, linked bool) error {
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
	r.ID, r.Left = next.id(), s.m.o.Idle
	v := move[T]{m: s.m, old: old, oldToken: oldToken, next: next, r: r, same: same, linked: linked}
	now, err := v.do()
	if err != nil {
		return err
	}
	if old != nil {
		s.m.watches.wake(oldToken.tag)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.token, s.snap, s.fresh, s.cookie = active, next, now, false, set
	return nil
}
