package session

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// How the positions of a client's writes get to its next request. They are kept in its session; the flag cookie says, for
// a while, that they are there, so that only those who wrote pay for loading them. A client without a session has them, sealed,
// in the flag cookie itself.

const (
	flag     = "1"                   // no sealed token looks like it
	patience = 50 * time.Millisecond // how long headers wait for the positions of writes
	distrust = 10 * time.Second      // how long reads use the primary when the store cannot say what the client wrote
)

// receive raises the scope to what the request brings. An error means that its Causal-Token header is not one.
func (s *Session[T]) receive(ctx context.Context, r *http.Request) error {
	if sealed := r.Header.Get(causal.Header); sealed != "" {
		o, err := s.m.causal(ctx)
		if err != nil {
			s.suspect()
		} else {
			token, err := o.Open(sealed)
			if err == nil {
				err = s.scope.Saw(token)
			}
			if err != nil {
				return err
			}
		}
	}
	if len(r.Header["Cookie"]) == 0 {
		return nil
	}
	c, err := r.Cookie(s.m.o.Causal.Cookie("").Name)
	if err != nil {
		return nil
	}
	s.flagged = true
	if c.Value != flag {
		if o, err := s.m.causal(ctx); err != nil {
			s.suspect()
		} else if token, err := o.Open(c.Value); err == nil && s.scope.Saw(token) == nil {
			s.brought = token
		}
	}
	// The session counts in any case: the cookie holds what the last of several concurrent responses put there.
	if err := s.load(ctx); err != nil {
		s.suspect()
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snap != nil { // a pointer keeps the token too
		s.scope.Saw(s.snap.causal)
	}
	return nil
}

// suspect makes the request read from the primary: what its client wrote cannot be found out.
func (s *Session[T]) suspect() {
	s.scope.Saw(fmt.Sprintf("*=%d", time.Now().Add(distrust).Unix()))
}

// causal returns the options with the keys in force.
func (m *Manager[T]) causal(ctx context.Context) (causal.Options, error) {
	o := m.o.Causal
	keys, err := m.secrets(ctx)
	o.Keys = nil
	for _, k := range keys {
		o.Keys = append(o.Keys, k)
	}
	return o, err
}

// carry is the token of what the request has written so far.
func (s *Session[T]) carry() string {
	wait, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	token := s.scope.Written(wait)
	if s.m.o.Causal.CarryReads {
		token, _ = causal.Merge(token, s.scope.Seen())
	}
	return token
}

// news says whether the token demands more than what the session keeps.
func (s *Session[T]) news(token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token == "" || s.snap == nil {
		return token != ""
	}
	kept, err := causal.Merge(s.snap.causal)
	if err != nil {
		return true
	}
	all, err := causal.Merge(kept, token)
	return err != nil || all != kept
}

// send brings what was written on its way to the client's next request, and returns the flag cookie, nil if there is
// nothing new.
func (s *Session[T]) send(ctx context.Context, h http.Header, answer bool) *http.Cookie {
	token := s.carry()
	if answer {
		if o, err := s.m.causal(ctx); err == nil {
			if all, err := causal.Merge(token, s.scope.Seen()); err == nil {
				h.Set(causal.Header, o.Seal(all))
			}
		}
	}
	s.mu.Lock()
	brought, out := s.brought, s.state == ended
	s.mu.Unlock()
	if token == "" && !(out && brought != "") {
		return nil
	}
	all, err := causal.Merge(brought, token)
	if err != nil {
		return nil
	}
	if len(s.raws) > 0 && s.load(ctx) != nil {
		return s.sealed(ctx, all)
	}
	if s.current() == nil {
		if all == brought && !out {
			return nil
		}
		return s.sealed(ctx, all)
	}
	if s.news(all) {
		if _, err := s.change(ctx, nil, all); err != nil {
			return s.sealed(ctx, all)
		}
	}
	return s.m.o.Causal.Cookie(flag)
}

// sealed is the flag cookie that holds the token itself.
func (s *Session[T]) sealed(ctx context.Context, token string) *http.Cookie {
	o, err := s.m.causal(ctx)
	if err != nil {
		s.m.o.Logger.Debug("session: a causal token was lost", "name", s.m.o.Name, "error", err)
		return nil
	}
	return o.Cookie(o.Seal(token))
}
