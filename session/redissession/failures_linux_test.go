package redissession

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/session"
)

// behindProxy returns a store that reaches the shared server through a proxy, and one that goes there directly.
func behindProxy(t *testing.T, query string) (*testenv.Proxy, *Store, *Store) {
	t.Helper()
	r, direct := openSingle(t)
	proxy, err := testenv.StartProxy(r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	p := prefix()
	return proxy, New(open(t, "redis://"+proxy.Addr()+"/0?"+query), Options{Prefix: p}), New(direct, Options{Prefix: p})
}

func TestALostReplyIsNotAppliedTwice(t *testing.T) {
	for _, query := range []string{"max_retries=-1", "max_retries=3"} { // our own second try, and go-redis's
		proxy, store, direct := behindProxy(t, query)
		other := newManager(t, direct, patient)
		g := newGate(store)
		m := newManager(t, g, session.Options{StoreTimeout: 15 * time.Second})
		client := newBrowser()
		want(t, client.do(other, update), 200)
		want(t, client.do(m, update), 200)
		var between sync.Once
		g.after = func(call string, err error) error {
			if call == "swap" && err != nil {
				between.Do(func() { want(t, client.clone().do(other, update), 200) })
			}
			return err
		}
		proxy.LoseReplies(1, "evalsha")
		want(t, client.do(m, update), 200)
		if proxy.Stats().Dropped == 0 {
			t.Fatal("no reply was lost")
		}
		wanted := 3
		if query == "max_retries=-1" {
			wanted = 4 // the one between
		}
		if v := client.value(t, other); v.Visits != wanted {
			t.Errorf("%s: %d visits, want %d", query, v.Visits, wanted)
		}

		// A session's creation too.
		proxy.LoseReplies(1, "evalsha")
		fresh := newBrowser()
		want(t, fresh.do(m, update), 200)
		if v := fresh.value(t, other); v.Visits != 1 {
			t.Errorf("%s: created with %d visits, want 1", query, v.Visits)
		}
		// And each step of a login.
		for _, step := range []string{"move", "create", "supersede", "swap"} {
			is := once(step)
			g.stop = func(call string) bool {
				if is(call) {
					proxy.LoseReplies(1, "evalsha")
				}
				return false
			}
			if step != "move" {
				want(t, fresh.do(other, logout), 200)
				want(t, fresh.do(other, update), 200)
			} else {
				want(t, fresh.do(other, login("ann")), 200)
			}
			lost := proxy.Stats().Dropped
			want(t, fresh.do(m, login("ann")), 200)
			if v := fresh.value(t, other); v.Visits != 1 || v.User != "ann" || proxy.Stats().Dropped == lost {
				t.Errorf("%s: after login without the answer to %s: %+v", query, step, v)
			}
		}
		sessions := 0
		for range other.List(t.Context(), "ann") {
			sessions++
		}
		if sessions != 1 {
			t.Errorf("%s: %d sessions, want 1", query, sessions)
		}
	}
}

// TestTooMuchBetween: more changes than a record remembers came between an update and its second try.
func TestTooMuchBetween(t *testing.T) {
	proxy, store, direct := behindProxy(t, "max_retries=-1")
	other := newManager(t, direct, patient)
	g := newGate(store)
	m := newManager(t, g, session.Options{StoreTimeout: 15 * time.Second})
	client := newBrowser()
	want(t, client.do(other, update), 200)
	want(t, client.do(m, update), 200)
	var between sync.Once
	g.after = func(call string, err error) error {
		if call == "swap" && err != nil {
			between.Do(func() {
				for range 16 {
					want(t, client.clone().do(other, update), 200)
				}
			})
		}
		return err
	}
	proxy.LoseReplies(1, "evalsha")
	var got error
	client.do(m, func(ctx context.Context, s *current) error { _, got = s.Update(ctx, visit); return got })
	if !errors.Is(got, session.ErrOutcomeUnknown) {
		t.Errorf("error %v, want ErrOutcomeUnknown", got)
	}
	if v := client.value(t, other); v.Visits != 2+1+16 {
		t.Errorf("%d visits, want 19: once, and not again", v.Visits)
	}
}

func TestTheStoreIsGone(t *testing.T) {
	for _, fault := range []struct {
		name string
		set  func(t *testing.T, p *testenv.Proxy, on bool)
	}{
		{"refused", func(t *testing.T, p *testenv.Proxy, on bool) {
			if err := p.Refuse(on); err != nil {
				t.Fatal(err)
			}
			p.Cut()
		}},
		{"black hole", func(_ *testing.T, p *testenv.Proxy, on bool) {
			p.BlackHole(on)
			if !on {
				p.Cut()
			}
		}},
	} {
		proxy, store, direct := behindProxy(t, "")
		m := newManager(t, store, session.Options{})
		other := newManager(t, direct, patient)
		client := newBrowser()
		want(t, client.do(other, login("ann")), 200)
		warm(t, client, m)
		token := client.token()

		fault.set(t, proxy, true)
		want(t, client.do(m, public), 200)
		want(t, client.do(m, read), 503)
		want(t, client.do(m, update), 503)
		want(t, client.do(m, logout), 503)
		want(t, newBrowser().do(m, update), 503)
		calls := 0
		w := client.do(m, func(ctx context.Context, s *current) error {
			for range 5 { // of one request only the first waits
				if _, err := s.Get(ctx); !errors.Is(err, session.ErrUnavailable) {
					t.Errorf("%s: Get: %v", fault.name, err)
				}
				calls++
			}
			return nil
		})
		want(t, w, 200)
		if n := m.Stats().Loads; calls != 5 || n == 0 {
			t.Error(calls, n)
		}
		if client.token() != token {
			t.Errorf("%s: the cookie did not survive", fault.name)
		}
		fault.set(t, proxy, false)
		eventually(t, "the store is back", func() bool { return client.do(m, read).Code == 200 })
		if v := client.value(t, m); v.User != "ann" {
			t.Errorf("%s: after it: %+v", fault.name, v)
		}
	}
}

// warm has m read once, however slow the machine is.
func warm(t *testing.T, b *browser, m *manager) {
	t.Helper()
	eventually(t, "the first read", func() bool { return b.clone().do(m, read).Code == 200 })
}

func TestFrozenAndForgetfulRedis(t *testing.T) {
	r, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rdb := open(t, r.URL())
	m := newManager(t, New(rdb, Options{}), session.Options{})
	sure := newManager(t, New(open(t, r.URL()), Options{}), patient)
	client := newBrowser()
	want(t, client.do(sure, login("ann")), 200)
	warm(t, client, m)

	if err := r.Freeze(); err != nil {
		t.Fatal(err)
	}
	want(t, client.do(m, read), 503)
	if err := r.Thaw(); err != nil {
		t.Fatal(err)
	}
	warm(t, client, m)

	for _, f := range []handler{update, rotate, login("ann"), func(ctx context.Context, s *current) error { return sure.RevokeUser(ctx, "bob") }} {
		if err := rdb.Redis().ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		want(t, client.do(sure, f), 200)
	}
	if v := client.value(t, sure); v.Visits != 1 || v.User != "ann" {
		t.Errorf("after SCRIPT FLUSH: %+v", v)
	}

	// All data lost, and with it the secret: two processes agree again on who is who.
	if err := rdb.Redis().FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	late := newManager(t, New(open(t, r.URL()), Options{}), patient)
	fresh := newBrowser()
	want(t, fresh.do(late, login("ann")), 200)
	eventually(t, "the older process learns the new secret", func() bool { return fresh.value(t, sure).User == "ann" })
	want(t, fresh.do(sure, func(ctx context.Context, _ *current) error { return sure.RevokeUser(ctx, "ann") }), 200)
	if v := fresh.value(t, late); v.User != "" {
		t.Errorf("revoked by the older process: %+v", v)
	}
}

func TestAFailedDeferIsOne503(t *testing.T) {
	_, rdb := openSingle(t)
	g := newGate(New(rdb, Options{Prefix: prefix()}))
	m := newManager(t, g, session.Options{StoreTimeout: 5 * time.Second})
	client := newBrowser()
	want(t, client.do(m, update), 200)
	token := client.token()
	g.after = func(call string, err error) error {
		if call == "swap" {
			return errors.New("OOM command not allowed")
		}
		return err
	}
	var writeErr error
	w := client.doHTTP(m, func(w http.ResponseWriter, r *http.Request) {
		if err := m.From(r.Context()).Defer(visit); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Length", "5")
		w.Header().Set("ETag", `"x"`)
		w.WriteHeader(http.StatusCreated)
		_, writeErr = io.WriteString(w, "order")
	})
	want(t, w, http.StatusServiceUnavailable)
	if strings.Contains(w.Body.String(), "order") || w.Header().Get("Content-Type") != "application/problem+json" ||
		w.Header().Get("Retry-After") == "" || w.Header().Get("ETag") != "" || w.Header().Get("Content-Length") == "5" || writeErr == nil {
		t.Errorf("%v %s, write: %v", w.Header(), w.Body, writeErr)
	}
	if client.token() != token {
		t.Error("the cookie did not survive")
	}
	g.after = nil
	if n := m.Stats().DeferFailed; n != 1 {
		t.Errorf("DeferFailed %d", n)
	}

	// One that has ended meanwhile is 409; a panic stores nothing.
	old := client.clone()
	w = client.do(m, func(ctx context.Context, s *current) error {
		if err := read(ctx, s); err != nil {
			return err
		}
		want(t, old.do(m, logout), 200)
		return s.Defer(visit)
	})
	want(t, w, http.StatusConflict)
	client = newBrowser()
	want(t, client.do(m, update), 200)
	func() {
		defer func() { recover() }()
		client.do(m, func(ctx context.Context, s *current) error { s.Defer(visit); panic("handler") })
	}()
	if v := client.value(t, m); v.Visits != 1 {
		t.Errorf("%+v: stored although the handler panicked", v)
	}
}

func TestWriter(t *testing.T) {
	_, rdb := openSingle(t)
	m := newManager(t, New(rdb, Options{Prefix: prefix()}), session.Options{StoreTimeout: time.Minute, Insecure: true})
	mux := http.NewServeMux()
	late := make(chan error, 10)
	mux.HandleFunc("/sse", func(w http.ResponseWriter, r *http.Request) {
		s := m.From(r.Context())
		s.Defer(visit)
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		w.(http.Flusher).Flush()
		late <- s.Defer(visit)
		_, err := s.Update(r.Context(), visit) // needs no cookie any more
		late <- err
		late <- s.Rotate(r.Context())
		l, err := s.BeginLogin(r.Context(), "ann")
		if err != nil {
			t.Error(err)
		}
		late <- l.Commit(r.Context())
		io.WriteString(w, "data: 2\n\n")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("/late", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		_, err := m.From(r.Context()).Update(r.Context(), visit)
		late <- err
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, err := m.From(r.Context()).Update(r.Context(), visit) // not final: a cookie can be set
		late <- err
		w.WriteHeader(200)
	})
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, r *http.Request) {
		s := m.From(r.Context())
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			late <- err
			return
		}
		defer conn.Close()
		_, err = s.Update(r.Context(), visit)
		late <- err
		rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello")
		rw.Flush()
	})
	mux.HandleFunc("/copy", func(w http.ResponseWriter, r *http.Request) {
		m.From(r.Context()).Defer(visit)
		n, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("copied"))
		if n != 6 {
			err = fmt.Errorf("%d bytes", n)
		}
		late <- err
	})
	srv := httptest.NewServer(m.Middleware(mux))
	defer srv.Close()

	cookie := ""
	get := func(path string) (*http.Response, string) {
		t.Helper()
		r, _ := http.NewRequest("GET", srv.URL+path, nil)
		if cookie != "" {
			r.Header.Set("Cookie", cookie)
		}
		res, err := srv.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, string(b)
	}
	next := func(what string, want error) {
		t.Helper()
		if err := <-late; !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	res, body := get("/sse")
	if len(res.Cookies()) != 1 || res.Cookies()[0].Name != "session" || body != "data: 1\n\ndata: 2\n\n" {
		t.Fatalf("%v %q", res.Header, body)
	}
	next("Defer after Flush", session.ErrHeadersSent)
	next("Update after Flush", nil)
	next("Rotate after Flush", session.ErrHeadersSent)
	next("Commit after Flush", session.ErrHeadersSent)
	get("/late")
	next("the first Update after the headers", session.ErrHeadersSent)
	if res, _ := get("/hints"); len(res.Cookies()) != 1 {
		t.Errorf("after 103: %v", res.Header)
	}
	next("Update after 103", nil)
	cookie = "session=" + res.Cookies()[0].Value
	if res, body := get("/copy"); body != "copied" || res.StatusCode != 200 {
		t.Errorf("%v %q", res.Status, body)
	}
	next("ReadFrom", nil)

	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /hijack HTTP/1.1\r\nHost: x\r\nCookie: %s\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", cookie)
	all, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil || !strings.HasSuffix(string(all), "hello") {
		t.Errorf("hijacked: %q, %v", all, err)
	}
	next("Update after Hijack", nil)
	b := newBrowser()
	b.cookies["session"] = res.Cookies()[0].Value
	if v := b.value(t, m); v.Visits != 4 {
		t.Errorf("%d visits, want 4: deferred, after flush, copied, after hijack", v.Visits)
	}
}

func TestCookieAndCacheRules(t *testing.T) {
	_, rdb := openSingle(t)
	m := newManager(t, New(rdb, Options{Prefix: prefix()}), patient)
	client := newBrowser()
	w := client.do(m, update)
	c := w.Result().Cookies()[0]
	if c.Name != "__Host-session" || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" ||
		c.MaxAge < 11*3600 || c.MaxAge > 12*3600 {
		t.Errorf("%+v", c)
	}
	if n := len(client.do(m, update).Header()["Set-Cookie"]); n != 0 {
		t.Errorf("an update set %d cookies", n)
	}
	policy := func(b *browser, cc string, f handler) string {
		return b.doHTTP(m, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", cc)
			w.Header().Set("Vary", "Accept-Encoding, cookie")
			if err := f(r.Context(), m.From(r.Context())); err != nil {
				t.Error(err)
			}
		}).Header().Get("Cache-Control")
	}
	if cc := policy(client, "private, max-age=10", read); cc != "private, max-age=10" {
		t.Errorf("the handler's policy became %q", cc)
	}
	if cc := policy(newBrowser(), "public, max-age=10", update); cc != "private, no-store" {
		t.Errorf("a public answer sets a cookie: %q", cc)
	}
	if n := m.Stats().Downgraded; n != 1 {
		t.Errorf("Downgraded %d", n)
	}
	w = client.do(m, logout)
	if c := w.Result().Cookies()[0]; c.MaxAge >= 0 || c.Value != "" || c.Name != "__Host-session" || !c.Secure || c.Path != "/" {
		t.Errorf("%+v", c)
	}

	// Of duplicates two are tried.
	want(t, client.do(m, login("ann")), 200)
	r := httptest.NewRequest("GET", "https://shop.example/", nil)
	dead := newBrowser()
	want(t, dead.do(m, update), 200)
	token := dead.token()
	want(t, dead.do(m, logout), 200)
	r.Header.Set("Cookie", "__Host-session=garbage; __Host-session="+token+"; __Host-session="+client.token())
	rec := httptest.NewRecorder()
	m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if v, err := m.From(r.Context()).Get(r.Context()); err != nil || v.User != "ann" {
			t.Errorf("with a dead duplicate before it: %+v, %v", v, err)
		}
	})).ServeHTTP(rec, r)
}

func TestWithoutMiddlewareAndAfterClose(t *testing.T) {
	_, rdb := openSingle(t)
	m := newManager(t, New(rdb, Options{Prefix: prefix()}), patient)
	client := newBrowser()
	want(t, client.do(m, update), 200)
	outside := m.From(t.Context())
	calls := func(s *current) []error {
		_, err1 := s.Get(t.Context())
		_, err2 := s.Update(t.Context(), visit)
		_, err3 := s.BeginLogin(t.Context(), "ann")
		return []error{err1, err2, err3, s.Defer(visit), s.Rotate(t.Context()), s.Logout(t.Context())}
	}
	for i, err := range calls(outside) {
		if err == nil {
			t.Errorf("call %d without middleware: no error", i)
		}
	}
	m.Close()
	m.Close()
	client.do(m, func(ctx context.Context, s *current) error {
		for i, err := range append(calls(s), m.RevokeUser(ctx, "ann")) {
			if !errors.Is(err, session.ErrClosed) {
				t.Errorf("call %d after Close: %v", i, err)
			}
		}
		return nil
	})
}

// wrote writes in a database of which the test knows the positions.
func wrote(position string) handler {
	return func(ctx context.Context, s *current) error {
		causal.From(ctx).Domain("db").Wrote(position)
		return nil
	}
}

func bound(t *testing.T, b *browser, m *manager) string {
	t.Helper()
	position := "?"
	want(t, b.do(m, func(ctx context.Context, s *current) error {
		position, _ = causal.From(ctx).Domain("db").Bound()
		return nil
	}), 200)
	return position
}

func TestCausalTokensTravelWithTheSession(t *testing.T) {
	a, b := twoProcesses(t, patient)
	_, rdb := openSingle(t)
	p := prefix()
	m := newManager(t, New(rdb, Options{Prefix: p}), patient)
	hook := counted(rdb)

	// Without a session: in the cookie, sealed; no record is made.
	client := newBrowser()
	want(t, client.do(m, wrote("0001")), 200)
	if n := keysWith(t, rdb, p); n != 0 || client.cookies["__Host-wrote"] == "" {
		t.Errorf("%d keys, cookies %v", n, client.cookies)
	}
	if got := bound(t, client, m); got != "0001" {
		t.Errorf("without a session the next request is bound to %q", got)
	}
	forged := newBrowser()
	forged.cookies["__Host-wrote"] = client.cookies["__Host-wrote"][1:]
	if got := bound(t, forged, m); got != "" {
		t.Errorf("a forged cookie bound a request to %q", got)
	}

	// With one: beside the value, in the same write, and the flag says so.
	client = newBrowser()
	want(t, client.do(m, login("ann")), 200)
	hook.n.Store(0)
	w := client.do(m, func(ctx context.Context, s *current) error {
		wrote("0002")(ctx, s)
		return update(ctx, s)
	})
	want(t, w, 200)
	if n := hook.n.Load(); n != 2 {
		t.Errorf("a write and an update: %d round trips, want 2", n)
	}
	if c := w.Result().Cookies(); len(c) != 1 || c[0].Name != "__Host-wrote" || c[0].Value != "1" || c[0].MaxAge != 30 || !c[0].Secure || !c[0].HttpOnly {
		t.Errorf("%v", w.Header())
	}
	hook.n.Store(0)
	if got := bound(t, client, m); got != "0002" {
		t.Errorf("with a session the next request is bound to %q", got)
	}
	if n := hook.n.Load(); n != 1 {
		t.Errorf("loading the token: %d round trips, want 1", n)
	}
	// Without the flag nobody pays, and nothing is promised.
	unflagged := client.clone()
	delete(unflagged.cookies, "__Host-wrote")
	hook.n.Store(0)
	if got := bound(t, unflagged, m); got != "" || hook.n.Load() != 0 {
		t.Errorf("without the flag: %q, %d round trips", got, hook.n.Load())
	}
	// Concurrent responses lose nothing, whichever is last; an older position lowers nothing.
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { client.clone().do(m, wrote(fmt.Sprintf("%04d", 10+i))) })
	}
	wg.Wait()
	want(t, client.do(m, wrote("0003")), 200)
	if got := bound(t, client, m); got != "0017" {
		t.Errorf("after concurrent writes: %q", got)
	}
	if v := client.value(t, m); v.Visits != 1 || v.User != "ann" {
		t.Errorf("%+v", v)
	}
	// It survives rotation, login and logout, and what comes after the headers is kept too.
	want(t, client.do(m, rotate), 200)
	if got := bound(t, client, m); got != "0017" {
		t.Errorf("after rotation: %q", got)
	}
	client.doHTTP(m, func(w http.ResponseWriter, r *http.Request) {
		s := m.From(r.Context())
		update(r.Context(), s)
		w.WriteHeader(200)
		wrote("0020")(r.Context(), s)
	})
	if got := bound(t, client, m); got != "0020" {
		t.Errorf("written after the headers: %q", got)
	}
	want(t, client.do(m, login("bob")), 200)
	if got := bound(t, client, m); got != "0020" {
		t.Errorf("after login: %q", got)
	}
	want(t, client.do(m, logout), 200)
	if got := bound(t, client, m); got != "0020" {
		t.Errorf("after logout: %q", got)
	}
	// A handler that only read carries nothing.
	reader := newBrowser()
	w = reader.do(a, func(ctx context.Context, s *current) error {
		causal.From(ctx).Domain("db").Saw("0099")
		return nil
	})
	if w.Header()["Set-Cookie"] != nil {
		t.Errorf("%v", w.Header())
	}
	// Another process reads it.
	want(t, reader.do(a, update), 200)
	want(t, reader.do(a, wrote("0005")), 200)
	if got := bound(t, reader, b); got != "0005" {
		t.Errorf("another process: %q", got)
	}
}

func TestCausalHeaderAndUnresolvedWrites(t *testing.T) {
	_, rdb := openSingle(t)
	p := prefix()
	keys := [][]byte{[]byte("0123456789abcdef0123456789abcdef")}
	o := session.Options{StoreTimeout: time.Minute, Causal: causal.Options{Keys: keys, CarryReads: true}}
	m := newManager(t, New(rdb, Options{Prefix: p}), o)
	send := func(header string, f handler) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "https://shop.example/", nil)
		r.Header.Set(causal.Header, header)
		w := httptest.NewRecorder()
		m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := f(r.Context(), m.From(r.Context())); err != nil {
				t.Error(err)
			}
		})).ServeHTTP(w, r)
		return w
	}
	w := send(o.Causal.Seal("db=0007"), func(ctx context.Context, s *current) error {
		if got, _ := causal.From(ctx).Domain("db").Bound(); got != "0007" {
			t.Errorf("the header bound the request to %q", got)
		}
		return wrote("0008")(ctx, s)
	})
	if token, err := o.Causal.Open(w.Header().Get(causal.Header)); err != nil || token != "db=0008" {
		t.Errorf("answered %q, %v", token, err)
	}
	if w := send("nonsense", public); w.Code != http.StatusBadRequest {
		t.Errorf("a malformed header: %d", w.Code)
	}
	// CarryReads, and a write whose position does not come in time.
	client := newBrowser()
	want(t, client.do(m, func(ctx context.Context, s *current) error {
		causal.From(ctx).Domain("db").Saw("0009")
		causal.From(ctx).Domain("db").Pending()
		return nil
	}), 200)
	settled := true
	position := ""
	want(t, client.do(m, func(ctx context.Context, s *current) error {
		position, settled = causal.From(ctx).Domain("db").Bound()
		return nil
	}), 200)
	if position != "0009" || settled {
		t.Errorf("%q, settled %v; want what was read, and the primary alone", position, settled)
	}
}

// watched runs a function when the headers go out.
type watched struct {
	*httptest.ResponseRecorder
	onHeader func()
}

func (w watched) WriteHeader(status int) {
	w.onHeader()
	w.ResponseRecorder.WriteHeader(status)
}

// TestTheTokenIsStoredBeforeTheHeaders: a client that has the answer may send its next request to another process.
func TestTheTokenIsStoredBeforeTheHeaders(t *testing.T) {
	a, b := twoProcesses(t, patient)
	client := newBrowser()
	want(t, client.do(a, login("ann")), 200)
	client.cookies["__Host-wrote"] = "1"
	r := httptest.NewRequest("GET", "https://shop.example/", nil)
	for name, value := range client.cookies {
		r.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	position := "never"
	w := watched{httptest.NewRecorder(), func() { position = bound(t, client.clone(), b) }}
	a.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		wrote("0042")(r.Context(), a.From(r.Context()))
		w.WriteHeader(http.StatusCreated)
	})).ServeHTTP(w, r)
	if position != "0042" {
		t.Errorf("as the headers went out another process knew of %q", position)
	}
}

// TestAFlagAndNoStore: what the client wrote cannot be found out, so its reads use the primary.
func TestAFlagAndNoStore(t *testing.T) {
	proxy, store, direct := behindProxy(t, "")
	m := newManager(t, store, session.Options{})
	client := newBrowser()
	sure := newManager(t, direct, patient)
	want(t, client.do(sure, update), 200)
	want(t, client.do(sure, wrote("0001")), 200)
	warm(t, client, m)
	if err := proxy.Refuse(true); err != nil {
		t.Fatal(err)
	}
	proxy.Cut()
	settled := true
	w := client.do(m, func(ctx context.Context, s *current) error {
		_, settled = causal.From(ctx).Domain("db").Bound()
		return wrote("0002")(ctx, s)
	})
	want(t, w, 200)
	if settled {
		t.Error("a read might use a replica")
	}
	// And what it writes travels in the cookie.
	if c := client.cookies["__Host-wrote"]; c == "1" {
		t.Error("the flag says that the session has what the store did not take")
	}
	if err := proxy.Refuse(false); err != nil {
		t.Fatal(err)
	}
	if got := bound(t, client, sure); got != "0002" {
		t.Errorf("then: %q", got)
	}
}
