package session

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/fairlead/fairlead/internal/respwriter"
	"github.com/fairlead/fairlead/pool/causal"
)

// Middleware gives each request its session (see [Manager.From]) and a causal scope, sets the cookies, and keeps answers
// that depend on a session out of shared caches: they get Vary: Cookie and, if the handler set no Cache-Control,
// "private, no-store". On an answer that sets a cookie of the manager a public policy is replaced by that, and one that
// says neither private nor no-store gets a "private" in front: Stats.Downgraded counts both.
//
// A request whose handler asks nothing of the session, writes nothing and brings no mark of an earlier write asks nothing
// of the store, and its answer is as the handler made it.
func (m *Manager[T]) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &Session[T]{m: m, raws: m.cookies(r)}
		ctx, scope := causal.Begin(r.Context())
		s.scope = scope
		answer := r.Header.Get(causal.Header) != ""
		if err := s.receive(ctx, r); err != nil {
			problem(http.StatusBadRequest, causal.Header+" is malformed")(w, r)
			return
		}
		rw := respwriter.New(w, r, func(int) http.HandlerFunc {
			return s.beforeHeaders(context.WithoutCancel(ctx), w.Header(), answer)
		})
		next.ServeHTTP(rw, r.WithContext(context.WithValue(ctx, contextKey[T]{m}, s)))
		rw.Finish()
		s.afterResponse(context.WithoutCancel(ctx))
	})
}

// cookies returns what the request brings that has the shape of a token: of duplicates two.
func (m *Manager[T]) cookies(r *http.Request) (raws [][rawLen]byte) {
	if len(r.Header["Cookie"]) == 0 {
		return nil
	}
	for _, c := range r.CookiesNamed(m.o.Cookie) {
		if raw, ok := parseToken(c.Value); ok && len(raws) < 2 && !slices.Contains(raws, raw) {
			raws = append(raws, raw)
		}
	}
	return raws
}

// beforeHeaders runs once, before the headers go out. What it returns replaces the response.
func (s *Session[T]) beforeHeaders(ctx context.Context, h http.Header, answer bool) http.HandlerFunc {
	var replace http.HandlerFunc
	for {
		err := s.runDeferred(ctx)
		switch {
		case err == nil:
		case errors.Is(err, ErrEnded) || errors.Is(err, ErrRotated):
			replace = changed
		default:
			s.m.n.deferFailed.Add(1)
			replace = unsaved
			s.m.o.Logger.Debug("session: a deferred change failed", "name", s.m.o.Name, "error", err)
		}
		s.mu.Lock()
		if len(s.deferred) == 0 || replace != nil {
			s.mu.Unlock()
			break
		}
		s.mu.Unlock()
	}
	wrote := s.send(ctx, h, answer)
	s.mu.Lock()
	defer s.mu.Unlock()
	if replace == nil && s.outage == Refuse && s.failed {
		replace = unavailable
	}
	s.sent = true
	c := s.sessionCookie()
	if c != nil {
		h.Add("Set-Cookie", c.String())
	}
	if wrote != nil {
		s.m.partition(wrote)
		h.Add("Set-Cookie", wrote.String())
	}
	s.m.guardCaches(h, s.used, c != nil || wrote != nil)
	return replace
}

// sessionCookie is the cookie to set, or nil. s.mu is held.
func (s *Session[T]) sessionCookie() *http.Cookie {
	c := &http.Cookie{Name: s.m.o.Cookie, Path: "/", HttpOnly: true, Secure: !s.m.o.Insecure, SameSite: http.SameSiteLaxMode}
	s.m.partition(c)
	switch {
	case s.cookie == set && s.state == active:
		c.Value = s.token.text()
		// The store ends the session; this only says for how long the cookie may be of use. The clocks may differ.
		left := min(s.m.o.Absolute, time.Until(s.snap.Deadline))
		c.MaxAge = max(1, int(left/time.Second))
	case s.cookie == clear:
		c.MaxAge = -1
	default:
		return nil
	}
	return c
}

// partition lets frames of other sites have the cookie, if Options say so.
func (m *Manager[T]) partition(c *http.Cookie) {
	if m.o.Partitioned {
		c.Partitioned, c.SameSite = true, http.SameSiteNoneMode
	}
}

func (m *Manager[T]) guardCaches(h http.Header, used, sets bool) {
	if used && !slices.ContainsFunc(h.Values("Vary"), func(v string) bool { return mentions(v, "cookie") || mentions(v, "*") }) {
		h.Add("Vary", "Cookie")
	}
	policy := strings.Join(h.Values("Cache-Control"), ",")
	switch {
	case policy == "" && (used || sets):
		h.Set("Cache-Control", "private, no-store")
	case sets && (mentions(policy, "public") || mentions(policy, "s-maxage")):
		m.n.downgraded.Add(1)
		h.Set("Cache-Control", "private, no-store")
	case sets && !unshared(policy):
		m.n.downgraded.Add(1)
		h.Set("Cache-Control", "private, "+policy)
	}
}

// mentions says whether the comma-separated list has the word, alone or with a value.
func mentions(list, word string) bool {
	for part := range strings.SplitSeq(list, ",") {
		name, _, _ := strings.Cut(part, "=")
		if strings.EqualFold(strings.TrimSpace(name), word) {
			return true
		}
	}
	return false
}

// unshared says whether the policy keeps a whole response out of shared caches: private="a field" does that for the field.
func unshared(policy string) bool {
	for part := range strings.SplitSeq(policy, ",") {
		if part = strings.TrimSpace(part); strings.EqualFold(part, "private") || strings.EqualFold(part, "no-store") {
			return true
		}
	}
	return false
}

// afterResponse notes the use of the session, and keeps what was written after the headers.
func (s *Session[T]) afterResponse(ctx context.Context) {
	if s.m.closed.Load() {
		return
	}
	snap := s.current()
	if snap == nil {
		return
	}
	if late := s.carry(); s.news(late) {
		if _, err := s.change(ctx, nil, late); err != nil {
			s.m.o.Logger.Debug("session: a late causal token was lost", "name", s.m.o.Name, "error", err)
		}
	}
	if snap = s.current(); snap != nil && !snap.Final && s.m.o.Idle-snap.Left >= min(s.m.o.Idle/10, time.Minute) {
		s.m.touches.add(Record{Tag: snap.Tag, ID: snap.ID, Left: s.m.o.Idle})
	}
}
