package session

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
)

// Outage is what a route wants while the store is unavailable: see [Manager.Outage]. In none of the cases is a client logged
// out.
type Outage int

const (
	// Report lets the methods of a session fail with ErrUnavailable: the handler decides. It is the policy of routes without
	// one of their own.
	Report Outage = iota
	// Refuse is for routes that are nothing without the session: the session is looked up before the handler runs, and if
	// that fails, or the store fails the handler later, the client gets a 503 whatever the handler writes.
	Refuse
	// Anonymous is for pages that show something to everybody: Get returns the zero value, as for a client without a session.
	// Changes fail as with Report.
	Anonymous
)

// Outage returns middleware, to stand inside [Manager.Middleware], that gives routes a policy for an unavailable store:
//
//	mux.Handle("POST /checkout", sessions.Outage(session.Refuse)(checkout))
func (m *Manager[T]) Outage(o Outage) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := m.From(r.Context())
			s.mu.Lock()
			s.outage = o
			s.mu.Unlock()
			if o == Refuse {
				err := s.use(r.Context())
				if err != nil {
					s.note(err)
					Problem(w, r, err)
					return
				}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// Problem answers a request with what err, from a method of a session or its manager, means for the client, as
// application/problem+json (RFC 9457): 503 with Retry-After while the store is unavailable or the outcome is unknown, 409
// when the session has ended or was rotated, 403 for ErrRevoked, and 500. The text of err does not leave the process.
func Problem(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrOutcomeUnknown), errors.Is(err, ErrClosed),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		unavailable(w, r)
	case errors.Is(err, ErrEnded), errors.Is(err, ErrRotated):
		changed(w, r)
	case errors.Is(err, ErrRevoked):
		problem(http.StatusForbidden, "The login was revoked meanwhile.")(w, r)
	default:
		problem(http.StatusInternalServerError, "")(w, r)
	}
}

var (
	unavailable = problem(http.StatusServiceUnavailable, "Sessions are unavailable; please try again.")
	unsaved     = problem(http.StatusServiceUnavailable, "The session could not be saved; please try again.")
	changed     = problem(http.StatusConflict, "The session has changed meanwhile; please try again.")
)

// problem answers as RFC 9457 says.
func problem(status int, detail string) http.HandlerFunc {
	body, _ := json.Marshal(struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail,omitempty"`
	}{http.StatusText(status), status, detail})
	body = append(body, '\n')
	return func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/problem+json")
		h.Set("Cache-Control", "no-store")
		if status == http.StatusServiceUnavailable {
			h.Set("Retry-After", "1")
		}
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			w.Write(body)
		}
	}
}
