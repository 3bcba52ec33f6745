package session

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// Watch returns when the session is over, for connections that outlive their request (WebSockets, after Hijack; event
// streams):
//
//	go func() {
//		if err := s.Watch(ctx); errors.Is(err, session.ErrEnded) {
//			conn.Close()
//		}
//	}()
//
// The error wraps ErrEnded after a logout, a revocation or the session's expiry, or if there is no session; ErrRotated if an
// anonymous session became a user's; it is that of ctx when ctx ends, and ErrClosed when the manager is closed. What this
// process does is noticed at once, what others do within Options.WatchEvery, for one round trip each time. While the store
// is unavailable Watch goes on: nobody is logged out by that. Watching is no use of a session and does not prolong it; Update
// does. A user's session that gets a new id is followed.
func (s *Session[T]) Watch(ctx context.Context) error {
	if err := s.patiently(ctx); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		st, t := s.state, s.token
		s.mu.Unlock()
		if st != active && st != newer {
			return s.m.fail(st.refusal())
		}
		// What happens from here on wakes it, what happened before is seen by the look.
		woken, leave := s.m.watches.enter(t.tag)
		pause, err := s.look(ctx, t)
		if err == nil && pause > 0 {
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-woken:
			case <-ctx.Done():
				err = s.m.fail(context.Cause(ctx))
			}
			timer.Stop()
		}
		leave()
		if err != nil {
			return err
		}
	}
}

// look finds out whether t is still the session, and says when to look again: at once if it is not.
func (s *Session[T]) look(ctx context.Context, t token) (pause time.Duration, err error) {
	every := s.m.o.WatchEvery
	pause = every - every/10 + rand.N(every/5)
	now, err := s.m.read(ctx, t.tag, t.id())
	switch {
	case err == nil && now != nil && (now.kind == live || now.kind == foreign):
		if now.Left > 0 {
			pause = min(pause, now.Left+10*time.Millisecond)
		}
		return pause, nil
	case err == nil:
		if now == nil {
			now = &snapshot{}
		}
		if err = s.follow(ctx, t, now); err == nil {
			return 0, nil
		}
	}
	if errors.Is(err, ErrClosed) || ctx.Err() != nil {
		return 0, err
	}
	return pause, nil
}

// patiently looks the session up, however long the store is away.
func (s *Session[T]) patiently(ctx context.Context) error {
	for {
		err := s.load(ctx)
		if !errors.Is(err, ErrUnavailable) {
			return err
		}
		select {
		case <-time.After(s.m.o.WatchEvery):
		case <-ctx.Done():
			return s.m.fail(context.Cause(ctx))
		}
	}
}

// hub wakes those that watch sessions with a tag.
type hub struct {
	mu      sync.Mutex
	waiting map[string]map[chan struct{}]bool // nil for ever after close
	closed  bool
}

// enter returns a channel that gets something when the tag's sessions change.
func (h *hub) enter(tag string) (woken chan struct{}, leave func()) {
	woken = make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		woken <- struct{}{}
	}
	if h.waiting == nil {
		h.waiting = map[string]map[chan struct{}]bool{}
	}
	if h.waiting[tag] == nil {
		h.waiting[tag] = map[chan struct{}]bool{}
	}
	h.waiting[tag][woken] = true
	return woken, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if delete(h.waiting[tag], woken); len(h.waiting[tag]) == 0 {
			delete(h.waiting, tag)
		}
	}
}

func (h *hub) wake(tag string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for woken := range h.waiting[tag] {
		select {
		case woken <- struct{}{}:
		default:
		}
	}
}

// close wakes all, for good.
func (h *hub) close() {
	h.mu.Lock()
	h.closed = true
	var tags []string
	for tag := range h.waiting {
		tags = append(tags, tag)
	}
	h.mu.Unlock()
	for _, tag := range tags {
		h.wake(tag)
	}
}
