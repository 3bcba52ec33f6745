package session

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/fairlead/fairlead/pool/causal"
)

// TestNoSharedCacheKeepsACookie: RFC 9111 lets a shared cache store anything that does not say otherwise.
func TestNoSharedCacheKeepsACookie(t *testing.T) {
	nothing := func(*http.Request, *Manager[visitor]) error { return nil }
	read := func(r *http.Request, m *Manager[visitor]) error {
		_, err := m.From(r.Context()).Get(r.Context())
		return err
	}
	update := func(r *http.Request, m *Manager[visitor]) error {
		_, err := m.From(r.Context()).Update(r.Context(), visit)
		return err
	}
	write := func(r *http.Request, _ *Manager[visitor]) error {
		causal.From(r.Context()).Domain("db").Wrote("5")
		return nil
	}
	for _, c := range []struct {
		what       string
		do         func(*http.Request, *Manager[visitor]) error
		policy     []string
		want       string
		downgraded uint64
	}{
		{"sets a session", update, nil, "private, no-store", 0},
		{"sets a session", update, []string{"private, max-age=60"}, "private, max-age=60", 0},
		{"sets a session", update, []string{"max-age=60", "Private"}, "max-age=60", 0},
		{"sets a session", update, []string{"No-Store"}, "No-Store", 0},
		{"sets a session", update, []string{"max-age=60"}, "private, max-age=60", 1},
		{"sets a session", update, []string{"max-age=60", "must-revalidate"}, "private, max-age=60,must-revalidate", 1},
		{"sets a session", update, []string{"no-cache"}, "private, no-cache", 1},
		{"sets a session", update, []string{`private="x-user", max-age=60`}, `private, private="x-user", max-age=60`, 1},
		{"sets a session", update, []string{"public, max-age=60"}, "private, no-store", 1},
		{"sets a session", update, []string{"max-age=60", "S-MaxAge=60"}, "private, no-store", 1},
		{"sets a session", update, []string{"private, s-maxage=60"}, "private, no-store", 1},
		{"sets the flag", write, nil, "private, no-store", 0},
		{"sets the flag", write, []string{"max-age=60"}, "private, max-age=60", 1},
		{"sets the flag", write, []string{"public"}, "private, no-store", 1},
		{"reads", read, nil, "private, no-store", 0},
		{"reads", read, []string{"max-age=60"}, "max-age=60", 0}, // the handler's decision, and Vary: Cookie
		{"reads", read, []string{"public"}, "public", 0},
		{"does nothing", nothing, nil, "", 0},
		{"does nothing", nothing, []string{"public, s-maxage=60"}, "public, s-maxage=60", 0},
	} {
		m := manager(t, NewMemory(0), Options{})
		w := httptest.NewRecorder()
		m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, p := range c.policy {
				w.Header().Add("Cache-Control", p)
			}
			if err := c.do(r, m); err != nil {
				t.Error(err)
			}
		})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		got := w.Result().Header
		if got.Get("Cache-Control") != c.want || m.Stats().Downgraded != c.downgraded {
			t.Errorf("a handler that %s under %q: Cache-Control %q, Downgraded %d; want %q, %d",
				c.what, c.policy, got["Cache-Control"], m.Stats().Downgraded, c.want, c.downgraded)
		}
		if sets := c.want != "" && len(got["Set-Cookie"]) == 0; sets && c.what[:4] == "sets" {
			t.Errorf("a handler that %s set no cookie", c.what)
		}
		m.Close()
	}
}
