package session

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"testing"
)

// visitor is the value of the sessions in the tests.
type visitor struct {
	User   string         `json:"user,omitempty"`
	Visits int            `json:"visits,omitempty"`
	Cart   map[string]int `json:"cart,omitempty"`
}

// app is one process: a manager and a server in front of which its middleware stands.
type app struct {
	t        *testing.T
	sessions *Manager[visitor]
	mux      *http.ServeMux
	srv      *httptest.Server
}

func newApp(t *testing.T, store Store, o Options) *app {
	t.Helper()
	o.Insecure = true
	m, err := New[visitor](store, o)
	if err != nil {
		t.Fatal(err)
	}
	a := &app{t: t, sessions: m, mux: http.NewServeMux()}
	a.srv = httptest.NewServer(m.Middleware(a.mux))
	t.Cleanup(func() { a.srv.Close(); m.Close() })
	a.handle("/public", func(context.Context, *Session[visitor]) error { return nil })
	a.handle("/read", func(ctx context.Context, s *Session[visitor]) error { _, err := s.Get(ctx); return err })
	a.handle("/visit", func(ctx context.Context, s *Session[visitor]) error {
		_, err := s.Update(ctx, visit)
		return err
	})
	a.handle("/login", func(ctx context.Context, s *Session[visitor]) error {
		l, err := s.BeginLogin(ctx, "ann")
		if err != nil {
			return err
		}
		if err := l.Commit(ctx); err != nil {
			return err
		}
		_, err = s.Update(ctx, func(v *visitor) error { v.User = "ann"; return nil })
		return err
	})
	a.handle("/rotate", func(ctx context.Context, s *Session[visitor]) error { return s.Rotate(ctx) })
	a.handle("/logout", func(ctx context.Context, s *Session[visitor]) error { return s.Logout(ctx) })
	a.handle("/everywhere", func(ctx context.Context, s *Session[visitor]) error { return m.RevokeUser(ctx, "ann") })
	return a
}

func visit(v *visitor) error { v.Visits++; return nil }

// handle answers with the error, or with the value as the session then shows it unless the path is public.
func (a *app) handle(path string, f func(context.Context, *Session[visitor]) error) {
	a.mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if err := f(r.Context(), a.sessions.From(r.Context())); err != nil {
			status := http.StatusInternalServerError
			switch {
			case errors.Is(err, ErrUnavailable), errors.Is(err, ErrOutcomeUnknown):
				status = http.StatusServiceUnavailable
			case errors.Is(err, ErrRotated), errors.Is(err, ErrEnded):
				status = http.StatusConflict
			case errors.Is(err, ErrRevoked):
				status = http.StatusForbidden
			}
			http.Error(w, err.Error(), status)
		}
	})
}

// client keeps cookies like a browser.
func client(t *testing.T) *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := &http.Client{Jar: jar, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// get returns the response, its body read.
func (a *app) get(c *http.Client, path string) (*http.Response, string) {
	a.t.Helper()
	res, err := c.Get(a.srv.URL + path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return res, string(body)
}

func (a *app) want(c *http.Client, path string, status int) *http.Response {
	a.t.Helper()
	res, body := a.get(c, path)
	if res.StatusCode != status {
		a.t.Fatalf("%s: status %d, want %d: %s", path, res.StatusCode, status, body)
	}
	return res
}

// value is what the client's session holds now, by a request of its own.
func (a *app) value(c *http.Client) (v visitor) {
	a.t.Helper()
	var err error
	a.inside(c, func(ctx context.Context, s *Session[visitor]) { v, err = s.Get(ctx) })
	if err != nil {
		a.t.Fatal(err)
	}
	return v
}

// inside runs f as the handler of a request of c.
func (a *app) inside(c *http.Client, f func(context.Context, *Session[visitor])) *http.Response {
	a.t.Helper()
	return a.insideHTTP(c, func(_ http.ResponseWriter, r *http.Request) { f(r.Context(), a.sessions.From(r.Context())) })
}

func (a *app) insideHTTP(c *http.Client, f http.HandlerFunc) *http.Response {
	a.t.Helper()
	srv := httptest.NewServer(a.sessions.Middleware(f))
	defer srv.Close()
	defer c.CloseIdleConnections()
	// The cookie jar knows hosts, not ports: the other server's cookies come along.
	res, err := c.Get(srv.URL)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	return res
}

func TestLifeOfASession(t *testing.T) {
	a := newApp(t, NewMemory(0), Options{})
	c := client(t)
	if res := a.want(c, "/read", 200); res.Header["Set-Cookie"] != nil {
		t.Fatalf("a read set %v", res.Header["Set-Cookie"])
	}
	res := a.want(c, "/visit", 200)
	if len(res.Cookies()) != 1 || !strings.HasPrefix(res.Header.Get("Set-Cookie"), "session=") {
		t.Fatalf("first visit: %v", res.Header["Set-Cookie"])
	}
	a.want(c, "/visit", 200)
	if v := a.value(c); v.Visits != 2 {
		t.Fatalf("%+v", v)
	}
	a.want(c, "/login", 200)
	if v := a.value(c); v.Visits != 2 || v.User != "ann" {
		t.Fatalf("after login: %+v", v)
	}
	a.want(c, "/rotate", 200)
	if v := a.value(c); v.Visits != 2 || v.User != "ann" {
		t.Fatalf("after rotation: %+v", v)
	}
	a.want(c, "/logout", 200)
	if v := a.value(c); v.Visits != 0 || v.User != "" {
		t.Fatalf("after logout: %+v", v)
	}
	a.want(c, "/login", 200)
	a.want(c, "/everywhere", 200)
	if v := a.value(c); v.User != "" {
		t.Fatalf("after logout everywhere: %+v", v)
	}
}
