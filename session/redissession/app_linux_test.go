package redissession

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/scale/redisconn"
	"github.com/fairlead/fairlead/session"
)

// visitor is the value of the sessions in these tests.
type visitor struct {
	User   string `json:"user,omitempty"`
	Visits int    `json:"visits,omitempty"`
}

func visit(v *visitor) error { v.Visits++; return nil }

type (
	manager = session.Manager[visitor]
	current = session.Session[visitor]
	handler = func(ctx context.Context, s *current) error
)

func newManager(t *testing.T, store session.Store, o session.Options) *manager {
	t.Helper()
	m, err := session.New[visitor](store, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// browser keeps its cookies by name.
type browser struct {
	mu      sync.Mutex
	cookies map[string]string
}

func newBrowser() *browser { return &browser{cookies: map[string]string{}} }

func (b *browser) clone() *browser {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := newBrowser()
	for k, v := range b.cookies {
		c.cookies[k] = v
	}
	return c
}

func (b *browser) token() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cookies["__Host-session"]
}

// do sends a request with b's cookies through m's middleware to f, and keeps the answer's cookies.
func (b *browser) do(m *manager, f handler) *httptest.ResponseRecorder {
	return b.doHTTP(m, func(w http.ResponseWriter, r *http.Request) {
		err := f(r.Context(), m.From(r.Context()))
		switch {
		case err == nil:
			w.Write([]byte("fine"))
		case errors.Is(err, session.ErrUnavailable), errors.Is(err, session.ErrOutcomeUnknown):
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case errors.Is(err, session.ErrRotated), errors.Is(err, session.ErrEnded):
			http.Error(w, err.Error(), http.StatusConflict)
		case errors.Is(err, session.ErrRevoked):
			http.Error(w, err.Error(), http.StatusForbidden)
		default:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

func (b *browser) doHTTP(m *manager, f http.HandlerFunc) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "https://shop.example/", nil)
	b.mu.Lock()
	for name, value := range b.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	b.mu.Unlock()
	w := httptest.NewRecorder()
	m.Middleware(f).ServeHTTP(w, r)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range w.Result().Cookies() {
		if c.MaxAge < 0 {
			delete(b.cookies, c.Name)
		} else {
			b.cookies[c.Name] = c.Value
		}
	}
	return w
}

func want(t *testing.T, w *httptest.ResponseRecorder, status int) {
	t.Helper()
	if w.Code != status {
		t.Fatalf("status %d, want %d: %s", w.Code, status, w.Body)
	}
}

// value is what b's session holds.
func (b *browser) value(t *testing.T, m *manager) (v visitor) {
	t.Helper()
	w := b.clone().do(m, func(ctx context.Context, s *current) (err error) {
		v, err = s.Get(ctx)
		return err
	})
	want(t, w, 200)
	return v
}

func public(context.Context, *current) error { return nil }

func read(ctx context.Context, s *current) error { _, err := s.Get(ctx); return err }

func update(ctx context.Context, s *current) error { _, err := s.Update(ctx, visit); return err }

func login(user string) handler {
	return func(ctx context.Context, s *current) error {
		l, err := s.BeginLogin(ctx, user)
		if err != nil {
			return err
		}
		if err := l.Commit(ctx); err != nil {
			return err
		}
		_, err = s.Update(ctx, func(v *visitor) error { v.User = user; return nil })
		return err
	}
}

func logout(ctx context.Context, s *current) error { return s.Logout(ctx) }

func rotate(ctx context.Context, s *current) error { return s.Rotate(ctx) }

// trips counts what a client sends to Redis: commands and pipelines, as round trips.
type trips struct{ n atomic.Int64 }

func (h *trips) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.n.Add(1)
		return next(ctx, cmd)
	}
}

func (h *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !slices.ContainsFunc(cmds, func(c redis.Cmder) bool { return c.Name() == "hello" || c.Name() == "client" }) {
			h.n.Add(1) // else it sets up a connection
		}
		return next(ctx, cmds)
	}
}

func counted(rdb *redisconn.Client) *trips {
	h := new(trips)
	rdb.Redis().AddHook(h)
	return h
}

// gate stands before a store and stops chosen calls until they are let through.
type gate struct {
	*Store
	mu   sync.Mutex
	stop func(call string) bool // asked before each call
	at   chan string            // a stopped call arrives here
	open chan struct{}
	// after is asked after each call, with its error, and may replace that.
	after func(call string, err error) error
}

func newGate(s *Store) *gate {
	return &gate{Store: s, at: make(chan string, 64), open: make(chan struct{})}
}

func (g *gate) before(call string) {
	g.mu.Lock()
	stop := g.stop
	g.mu.Unlock()
	if stop != nil && stop(call) {
		g.at <- call
		<-g.open
	}
}

func (g *gate) done(call string, err error) error {
	g.mu.Lock()
	after := g.after
	g.mu.Unlock()
	if after != nil {
		return after(call, err)
	}
	return err
}

// once returns a condition that holds the first time call is made.
func once(call string) func(string) bool {
	var seen atomic.Bool
	return func(c string) bool { return c == call && !seen.Swap(true) }
}

func (g *gate) Load(ctx context.Context, tag, id string) (session.Record, error) {
	g.before("load")
	r, err := g.Store.Load(ctx, tag, id)
	g.before("loaded")
	return r, g.done("load", err)
}

func (g *gate) Create(ctx context.Context, r session.Record) (session.Record, bool, error) {
	g.before("create")
	now, created, err := g.Store.Create(ctx, r)
	return now, created, g.done("create", err)
}

func (g *gate) CompareAndSwap(ctx context.Context, r session.Record) (session.Record, bool, error) {
	call := "swap"
	if r.Pinned {
		call = "supersede"
	}
	g.before(call)
	now, swapped, err := g.Store.CompareAndSwap(ctx, r)
	return now, swapped, g.done(call, err)
}

func (g *gate) Move(ctx context.Context, old, next session.Record) (session.Record, bool, error) {
	g.before("move")
	now, moved, err := g.Store.Move(ctx, old, next)
	g.before("moved")
	return now, moved, g.done("move", err)
}

func (g *gate) Delete(ctx context.Context, tag, id string) (session.Record, error) {
	g.before("delete")
	r, err := g.Store.Delete(ctx, tag, id)
	return r, g.done("delete", err)
}

func (g *gate) Touch(ctx context.Context, records []session.Record) error {
	g.before("touch")
	return g.done("touch", g.Store.Touch(ctx, records))
}

// eventually polls until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// keysWith counts the keys that begin with prefix, but for the one of the manager's secret.
func keysWith(t *testing.T, rdb *redisconn.Client, prefix string) (n int) {
	t.Helper()
	it := rdb.Redis().Scan(t.Context(), 0, prefix+"*", 1000).Iterator()
	for it.Next(t.Context()) {
		if !strings.HasSuffix(it.Val(), "{fairlead}:s:key") {
			n++
		}
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}
