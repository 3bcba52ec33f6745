package pgsession

import (
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/fairlead/fairlead/session"
)

// browser keeps the last session cookie.
type browser struct {
	mu     sync.Mutex
	cookie *http.Cookie
}

func inRequest[T any](t *testing.T, m *session.Manager[T], b *browser, f func(context.Context, *session.Session[T]) error) {
	t.Helper()
	r := httptest.NewRequest("GET", "/", nil)
	b.mu.Lock()
	if b.cookie != nil {
		r.AddCookie(b.cookie)
	}
	b.mu.Unlock()
	w := httptest.NewRecorder()
	m.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if err := f(r.Context(), m.From(r.Context())); err != nil {
			t.Error(err)
		}
	})).ServeHTTP(w, r)
	for _, c := range w.Result().Cookies() {
		b.mu.Lock()
		b.cookie = &http.Cookie{Name: c.Name, Value: c.Value}
		b.mu.Unlock()
	}
}
