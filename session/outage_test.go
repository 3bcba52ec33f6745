package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestRoutesChooseWhatAnOutageDoes uses a store that never answers, in virtual time: no answer takes longer than the budget.
func TestRoutesChooseWhatAnOutageDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dead atomic.Bool
		store := NewMemory(0)
		m := manager(t, both{hooked{store, func(ctx context.Context, call string) error {
			if dead.Load() && call != "touch" {
				<-ctx.Done()
				return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
			}
			return nil
		}}, store.(UserIndex)}, Options{})
		cookie := begin(t, m)
		ran := 0
		var got error
		var dies string // when the store dies
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ran++
			s := m.From(r.Context())
			v, err := s.Get(r.Context())
			if dies == "later" {
				dead.Store(true)
			}
			if r.URL.Path == "/update" && err == nil {
				_, err = s.Update(r.Context(), visit)
			}
			got = err
			fmt.Fprintf(w, "visits %d", v.Visits)
		})
		for _, c := range []struct {
			policy     Outage
			path, dies string
			cookie     bool
			status     int
			body       string
			ran        int
			err        error
		}{
			{Report, "/read", "", true, 200, "visits 1", 1, nil},
			{Refuse, "/read", "", true, 200, "visits 1", 1, nil},
			{Report, "/read", "before", true, 200, "visits 0", 1, ErrUnavailable}, // what the handler made of it
			{Report, "/read", "before", false, 200, "visits 0", 1, nil},           // nothing to look up
			{Anonymous, "/read", "before", true, 200, "visits 0", 1, nil},
			{Anonymous, "/update", "before", true, 200, "visits 0", 1, ErrUnavailable},
			{Refuse, "/read", "before", true, 503, "application/problem+json", 0, nil},
			{Refuse, "/read", "before", false, 200, "visits 0", 1, nil},
			{Refuse, "/update", "later", true, 503, "application/problem+json", 1, ErrOutcomeUnknown},
			{Report, "/update", "later", true, 200, "visits 1", 1, ErrOutcomeUnknown},
		} {
			dead.Store(c.dies == "before")
			dies, ran, got = c.dies, 0, nil
			r := httptest.NewRequest("GET", c.path, nil)
			if c.cookie {
				r.AddCookie(&http.Cookie{Name: "__Host-session", Value: cookie})
				r.AddCookie(&http.Cookie{Name: "__Host-wrote", Value: "1"}) // has the session loaded before all else
			}
			w := httptest.NewRecorder()
			began := time.Now()
			m.Middleware(m.Outage(c.policy)(handler)).ServeHTTP(w, r)
			if d := time.Since(began); d > 250*time.Millisecond {
				t.Errorf("%+v took %v", c, d)
			}
			text := w.Body.String() + w.Header().Get("Content-Type")
			if w.Code != c.status || !strings.Contains(text, c.body) || ran != c.ran || !errors.Is(got, c.err) || c.err == nil && got != nil {
				t.Errorf("%+v: %d %q, ran %d times, %v", c, w.Code, text, ran, got)
			}
			if w.Code == 503 && (w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "visits")) {
				t.Errorf("%+v: %v %s", c, w.Header(), w.Body)
			}
			if w.Header()["Set-Cookie"] != nil {
				t.Errorf("%+v: an outage sets %v", c, w.Header()["Set-Cookie"])
			}
			dead.Store(false)
		}
		if v := get(t, m, cookie); v.Visits != 1 {
			t.Errorf("afterwards: %+v", v)
		}
		m.Close()
	})
}

func TestProblem(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{fmt.Errorf("x: %w", ErrUnavailable), 503},
		{ErrOutcomeUnknown, 503},
		{errors.Join(ErrOutcomeUnknown, context.Canceled), 503},
		{context.DeadlineExceeded, 503},
		{ErrClosed, 503},
		{ErrEnded, 409},
		{ErrRotated, 409},
		{ErrRevoked, 403},
		{errors.New("secret"), 500},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			w := httptest.NewRecorder()
			Problem(w, httptest.NewRequest(method, "/", nil), c.err)
			h := w.Header()
			if w.Code != c.status || h.Get("Content-Type") != "application/problem+json" || h.Get("Cache-Control") != "no-store" ||
				(h.Get("Retry-After") != "") != (c.status == 503) || (w.Body.Len() == 0) != (method == "HEAD") ||
				strings.Contains(w.Body.String(), "secret") {
				t.Errorf("%s %v: %d %v %s", method, c.err, w.Code, h, w.Body)
			}
		}
	}
	// Outside the middleware a policy cannot hold.
	m := manager(t, NewMemory(0), Options{})
	w := httptest.NewRecorder()
	m.Outage(Refuse)(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if w.Code != 500 {
		t.Errorf("%d", w.Code)
	}
}
