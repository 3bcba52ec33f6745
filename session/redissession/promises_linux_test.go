package redissession

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/scale/redisconn"
	"github.com/fairlead/fairlead/session"
)

// patient is for tests that hold the store on purpose, or run on a busy machine: no budget runs out.
var patient = session.Options{StoreTimeout: time.Minute}

// twoProcesses returns two managers that share nothing but Redis.
func twoProcesses(t *testing.T, o session.Options) (a, b *manager) {
	t.Helper()
	p := prefix()
	_, rdb1 := openSingle(t)
	_, rdb2 := openSingle(t)
	return newManager(t, New(rdb1, Options{Prefix: p}), o), newManager(t, New(rdb2, Options{Prefix: p}), o)
}

func TestConcurrentUpdatesAreNotLost(t *testing.T) {
	for range 20 {
		a, b := twoProcesses(t, patient)
		client := newBrowser()
		want(t, client.do(a, func(ctx context.Context, s *current) error {
			_, err := s.Update(ctx, func(v *visitor) error { v.User = "x"; return nil })
			return err
		}), 200)
		var wg sync.WaitGroup
		var mu sync.Mutex
		seen := map[int]int{}
		for i := range 100 {
			wg.Go(func() {
				m := []*manager{a, b}[i%2]
				w := client.clone().do(m, func(ctx context.Context, s *current) error {
					v, err := s.Update(ctx, visit)
					mu.Lock()
					defer mu.Unlock()
					seen[v.Visits]++
					return err
				})
				if w.Code != 200 {
					t.Errorf("%d: %s", w.Code, w.Body)
				}
			})
		}
		wg.Wait()
		if v := client.value(t, a); v.Visits != 100 || v.User != "x" {
			t.Fatalf("100 concurrent increments came to %+v", v)
		}
		for i := 1; i <= 100; i++ {
			if seen[i] != 1 {
				t.Fatalf("%d updates returned the value %d, want 1", seen[i], i)
			}
		}
	}
}

// scripts is how many scripts the server has run.
func scripts(t *testing.T, r *testenv.Redis) int64 {
	t.Helper()
	n := int64(0)
	for _, command := range []string{"eval", "evalsha"} {
		calls, err := r.Calls(t.Context(), command)
		if err != nil {
			t.Fatal(err)
		}
		n += calls
	}
	return n
}

func TestQueuedUpdatesAreOneScript(t *testing.T) {
	r, direct := openSingle(t)
	proxy, err := testenv.StartProxy(r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	// One connection is enough, and a pool of many would be set up while the proxy holds.
	rdb := open(t, "redis://"+proxy.Addr()+"/0?read_timeout=1m")
	p := prefix()
	m := newManager(t, New(rdb, Options{Prefix: p}), patient)
	client := newBrowser()
	want(t, client.do(m, update), 200)
	want(t, client.do(m, update), 200) // Redis knows the scripts now

	const n = 400
	var loaded, done sync.WaitGroup
	loaded.Add(n)
	first, others := make(chan struct{}), make(chan struct{})
	for i := range n {
		release := others
		if i == 0 {
			release = first
		}
		done.Go(func() {
			w := client.clone().do(m, func(ctx context.Context, s *current) error {
				_, err := s.Get(ctx)
				loaded.Done()
				<-release
				if err != nil {
					return err
				}
				_, err = s.Update(ctx, visit)
				return err
			})
			if w.Code != 200 {
				t.Errorf("%d: %s", w.Code, w.Body)
			}
		})
	}
	loaded.Wait()
	if err := r.ResetCounts(t.Context()); err != nil {
		t.Fatal(err)
	}
	proxy.Hold(testenv.Up)
	sent := m.Stats().Writes
	close(first)
	eventually(t, "the first script is on its way", func() bool { return m.Stats().Writes == sent+1 })
	close(others)
	eventually(t, "399 updates wait for the first", func() bool { return m.Stats().Queued == n-1 })
	proxy.Release()
	done.Wait()
	if got := scripts(t, r); got != 2 {
		t.Errorf("%d updates took %d scripts, want 2", n, got)
	}
	if v := client.value(t, newManager(t, New(direct, Options{Prefix: p}), patient)); v.Visits != n+2 {
		t.Errorf("visits %d, want %d", v.Visits, n+2)
	}
}

// TestNothingBringsASessionBack stops a request at each of its calls to the store, logs out (or revokes) meanwhile, and lets
// it go on.
func TestNothingBringsASessionBack(t *testing.T) {
	_, rdb := openSingle(t)
	inFlight := []struct {
		name string
		stop string
		f    handler
	}{
		{"read before the store is asked", "load", read},
		{"read after", "loaded", read},
		{"update before the load", "load", update},
		{"update after the load", "loaded", update},
		{"update before the swap", "swap", update},
		{"deferred update", "swap", func(_ context.Context, s *current) error { return s.Defer(visit) }},
		{"rotation before", "move", rotate},
		{"rotation after", "moved", rotate},
		{"second login before", "move", login("ann")},
		{"touch", "touch", read},
	}
	ends := []struct {
		name string
		f    func(m *manager) handler
	}{
		{"logout", func(*manager) handler { return logout }},
		{"revocation", func(m *manager) handler {
			return func(ctx context.Context, _ *current) error { return m.RevokeUser(ctx, "ann") }
		}},
	}
	p := prefix()
	plain := New(rdb, Options{Prefix: p})
	other := newManager(t, plain, patient)
	interleavings := 0
	for round := range 50 {
		for _, c := range inFlight {
			for _, end := range ends {
				g := newGate(plain)
				o := patient
				o.Idle = time.Hour // more than other gives: each use is noted
				m := newManager(t, g, o)
				client := newBrowser()
				if round%2 == 0 {
					want(t, client.do(other, update), 200)
				}
				want(t, client.do(other, login("ann")), 200)
				old := client.clone()
				client.do(m, public)
				want(t, client.clone().do(m, read), 200) // the key is known

				interleavings++
				g.mu.Lock()
				g.stop = once(c.stop)
				g.mu.Unlock()
				flying := make(chan *httptest.ResponseRecorder)
				go func() {
					w := client.do(m, c.f)
					m.Close() // has the use noted
					flying <- w
				}()
				<-g.at
				want(t, old.clone().do(other, end.f(other)), 200)
				close(g.open)
				w := <-flying

				for who, b := range map[string]*browser{"the old cookie": old, "the answer's cookies": client} {
					v := b.value(t, other)
					// A second login that began after the logout, which the gate cannot tell, may hold.
					if v.User == "ann" {
						t.Fatalf("%s during %s: %s is logged in (%d %s)", end.name, c.name, who, w.Code, w.Body)
					}
				}
				for info, err := range other.List(t.Context(), "ann") {
					t.Fatalf("%s during %s: left %+v, %v", end.name, c.name, info, err)
				}
			}
		}
	}
	if interleavings < 1000 {
		t.Errorf("only %d interleavings", interleavings)
	}
}

func TestTouchExtendsAndNeverRevives(t *testing.T) {
	_, rdb := openSingle(t)
	store := New(rdb, Options{Prefix: prefix()})
	touched := func() (*manager, *browser, session.Record) {
		m := newManager(t, store, session.Options{Idle: time.Hour, StoreTimeout: time.Minute})
		// Another process with a shorter idle time made it: it has less to live than this one gives.
		client := newBrowser()
		want(t, client.do(newManager(t, store, session.Options{Idle: 30 * time.Minute, StoreTimeout: time.Minute}), login("ann")), 200)
		want(t, client.do(m, read), 200) // queues a touch
		all, err := store.List(t.Context(), tagOf(t, store))
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		return m, client, all[0]
	}
	m, client, before := touched()
	if before.Left > 30*time.Minute {
		t.Fatalf("left %v before the touch", before.Left)
	}
	m.Close() // drains
	now, err := store.Load(t.Context(), before.Tag, before.ID)
	if err != nil || now.Left <= 30*time.Minute || now.Version != before.Version {
		t.Fatalf("after the touch: %+v, %v", now, err)
	}
	if n := m.Stats().Touches; n != 1 {
		t.Errorf("%d touches, want 1", n)
	}
	other := newManager(t, store, patient)
	want(t, client.do(other, logout), 200)

	m, client, before = touched()
	want(t, client.do(other, logout), 200)
	m.Close()
	if now, err := store.Load(t.Context(), before.Tag, before.ID); err != nil || now.Version != 0 {
		t.Fatalf("a touch revived %+v, %v", now, err)
	}
}

// tagOf finds ann's tag: the only index there is.
func tagOf(t *testing.T, s *Store) string {
	t.Helper()
	keys, err := s.rdb.Redis().Keys(t.Context(), s.prefix+"*:u").Result()
	if err != nil || len(keys) != 1 {
		t.Fatal(keys, err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(keys[0], s.prefix+"{"), "}:u")
}

// total is how many commands the server has carried out.
func total(t *testing.T, rdb *redisconn.Client) (n int) {
	t.Helper()
	info, err := rdb.Redis().Info(t.Context(), "stats").Result()
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := strings.Cut(info, "total_commands_processed:")
	fmt.Sscan(line, &n)
	return n
}

func TestNoCostWithoutUse(t *testing.T) {
	_, rdb := openSingle(t)
	_, watch := openSingle(t)
	p := prefix()
	m := newManager(t, New(rdb, Options{Prefix: p}), patient)
	hook := counted(rdb)
	client := newBrowser()
	want(t, client.do(m, update), 200)

	before := total(t, watch)
	hook.n.Store(0)
	for range 20 {
		w := client.do(m, public)
		for _, name := range []string{"Set-Cookie", "Vary", "Cache-Control"} {
			if h := w.Header()[name]; h != nil {
				t.Fatalf("a public handler's answer has %s %v", name, h)
			}
		}
	}
	if n := total(t, watch) - before - 1; n != 0 || hook.n.Load() != 0 { // 1 is the first INFO
		t.Errorf("20 public requests sent %d commands", n)
	}

	for _, c := range []struct {
		name  string
		f     handler
		trips int64
	}{
		{"read", read, 1},
		{"two reads", func(ctx context.Context, s *current) error { read(ctx, s); return read(ctx, s) }, 1},
		{"update", update, 2},
		{"read and update", func(ctx context.Context, s *current) error { read(ctx, s); return update(ctx, s) }, 2},
		{"two deferred", func(ctx context.Context, s *current) error {
			read(ctx, s)
			s.Defer(visit)
			return s.Defer(visit)
		}, 2},
		{"an update that changes nothing", func(ctx context.Context, s *current) error {
			_, err := s.Update(ctx, func(*visitor) error { return nil })
			return err
		}, 2},
	} {
		want(t, client.do(m, c.f), 200)
		hook.n.Store(0)
		writes := m.Stats().Writes
		w := client.do(m, c.f)
		want(t, w, 200)
		if n := hook.n.Load(); n != c.trips {
			t.Errorf("%s: %d round trips, want %d", c.name, n, c.trips)
		}
		if strings.Contains(c.name, "nothing") && m.Stats().Writes != writes {
			t.Errorf("%s: it wrote", c.name)
		}
		if w.Header().Get("Vary") != "Cookie" || w.Header().Get("Cache-Control") != "private, no-store" || w.Header()["Set-Cookie"] != nil {
			t.Errorf("%s: headers %v", c.name, w.Header())
		}
	}
}

func TestNoFlood(t *testing.T) {
	_, rdb := openSingle(t)
	p := prefix()
	m := newManager(t, New(rdb, Options{Prefix: p}), patient)
	for range 5000 {
		w := newBrowser().do(m, func(ctx context.Context, s *current) error {
			if err := read(ctx, s); err != nil {
				return err
			}
			_, err := s.Update(ctx, func(*visitor) error { return nil }) // stores nothing
			return err
		})
		want(t, w, 200)
		if w.Header()["Set-Cookie"] != nil {
			t.Fatal(w.Header())
		}
		want(t, newBrowser().do(m, logout), 200)
	}
	if n := keysWith(t, rdb, p); n != 0 {
		t.Errorf("10,000 clients without a cookie made %d keys", n)
	}
}

func TestClientsCannotChooseIDs(t *testing.T) {
	_, rdb := openSingle(t)
	p := prefix()
	m := newManager(t, New(rdb, Options{Prefix: p}), patient)
	hook := counted(rdb)
	client := newBrowser()
	want(t, client.do(m, update), 200)
	good := client.token()

	raw, err := base64.RawURLEncoding.DecodeString(good)
	if err != nil {
		t.Fatal(err)
	}
	forged := func(change func(b []byte)) string {
		b := append([]byte(nil), raw...)
		change(b)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	lastBits := good[:len(good)-1] + string(good[len(good)-1]+1) // decodes to the same bytes, if allowed to
	for name, c := range map[string]struct {
		token string
		trips int64
	}{
		"empty":            {"", 0},
		"short":            {good[:len(good)-1], 0},
		"long":             {good + "A", 0},
		"not base64":       {strings.Repeat("!", len(good)), 0},
		"last bits":        {lastBits, 0},
		"random part":      {forged(func(b []byte) { b[1] ^= 1 }), 1},
		"routing tag":      {forged(func(b []byte) { b[len(b)-1] ^= 1 }), 1},
		"all of our shape": {forged(func(b []byte) { clear(b[1:]) }), 1},
	} {
		b := newBrowser()
		b.cookies["__Host-session"] = c.token
		hook.n.Store(0)
		want(t, b.do(m, read), 200)
		if n := hook.n.Load(); n != c.trips {
			t.Errorf("%s: %d round trips, want %d", name, n, c.trips)
		}
		w := b.do(m, update)
		want(t, w, 200)
		if got := b.token(); got == c.token || got == good || len(w.Header()["Set-Cookie"]) != 1 {
			t.Errorf("%s: was adopted: %v", name, w.Header())
		}
		if v := b.value(t, m); v.Visits != 1 {
			t.Errorf("%s: %+v", name, v)
		}
	}
	if v := client.value(t, m); v.Visits != 1 {
		t.Errorf("the true session: %+v", v)
	}
}

func TestRevocationRefusesALoginThatBegan(t *testing.T) {
	a, b := twoProcesses(t, patient)
	client, elsewhere, other := newBrowser(), newBrowser(), newBrowser()
	want(t, elsewhere.do(b, login("ann")), 200)
	want(t, other.do(b, login("bob")), 200)
	want(t, client.do(a, update), 200)
	want(t, client.do(a, func(ctx context.Context, s *current) error {
		l, err := s.BeginLogin(ctx, "ann")
		if err != nil {
			return err
		}
		if err := b.RevokeUser(ctx, "ann"); err != nil { // while the password is checked
			return err
		}
		return l.Commit(ctx)
	}), http.StatusForbidden)
	if v := elsewhere.value(t, a); v.User != "" {
		t.Errorf("revoked: %+v", v)
	}
	if v := other.value(t, a); v.User != "bob" {
		t.Errorf("another user: %+v", v)
	}
	if v := client.value(t, a); v.Visits != 1 || v.User != "" {
		t.Errorf("the session before the login: %+v", v)
	}
	want(t, client.do(a, login("ann")), 200)
	want(t, elsewhere.do(b, login("ann")), 200)
	// Everywhere but here.
	want(t, client.do(a, func(ctx context.Context, s *current) error { return a.RevokeUser(ctx, "ann", s) }), 200)
	if v := client.value(t, b); v.User != "ann" || v.Visits != 1 {
		t.Errorf("the spared session: %+v", v)
	}
	if v := elsewhere.value(t, b); v.User != "" {
		t.Errorf("revoked: %+v", v)
	}
}

func TestLoginAndRotationChangeTheID(t *testing.T) {
	a, b := twoProcesses(t, patient)
	client := newBrowser()
	want(t, client.do(a, update), 200)
	anonymous := client.clone()
	want(t, client.do(a, login("ann")), 200)
	if client.token() == anonymous.token() {
		t.Fatal("login kept the id")
	}
	// What was on its way with the anonymous id gets nothing of the login, and cannot undo it.
	for range 20 {
		w := anonymous.do(b, read)
		want(t, w, 200)
		if w.Header()["Set-Cookie"] != nil {
			t.Fatalf("a late answer sets %v", w.Header()["Set-Cookie"])
		}
		if v := anonymous.value(t, b); v != (visitor{}) {
			t.Fatalf("the anonymous id shows %+v", v)
		}
		for _, f := range []handler{update, rotate, logout, login("bob")} {
			w := anonymous.do(b, f)
			if w.Code != http.StatusConflict || w.Header()["Set-Cookie"] != nil {
				t.Fatalf("a late change: %d %s %v", w.Code, w.Body, w.Header())
			}
		}
	}
	if v := client.value(t, b); v.User != "ann" || v.Visits != 1 {
		t.Fatalf("%+v", v)
	}
	// A user's id leads to its successor for a while, and its client learns of it.
	old := client.clone()
	want(t, client.do(a, rotate), 200)
	late := old.clone()
	want(t, late.do(b, update), 200)
	if client.token() == old.token() || late.token() != client.token() {
		t.Fatal("the old id did not lead to the new one")
	}
	if v := client.value(t, a); v.User != "ann" || v.Visits != 2 {
		t.Fatalf("%+v", v)
	}
	// Logging out with the old id ends the session too.
	want(t, old.do(b, logout), 200)
	if v := client.value(t, a); v.User != "" {
		t.Fatalf("%+v", v)
	}
	// Another user's value stays behind, and that session ends.
	want(t, client.do(a, login("ann")), 200)
	want(t, client.do(a, update), 200)
	before := client.clone()
	want(t, client.do(a, login("bob")), 200)
	if v := client.value(t, b); v.User != "bob" || v.Visits != 0 {
		t.Fatalf("%+v", v)
	}
	if v := before.value(t, b); v.User != "" {
		t.Fatalf("%+v", v)
	}
}

// TestLoginBesideUpdates: what is added to the anonymous session during the login is in the user's session, or refused.
func TestLoginBesideUpdates(t *testing.T) {
	a, b := twoProcesses(t, patient)
	for range 10 {
		client := newBrowser()
		want(t, client.do(a, update), 200)
		anonymous := client.clone()
		var wg sync.WaitGroup
		var mu sync.Mutex
		added := 1
		for i := range 8 {
			wg.Go(func() {
				switch w := anonymous.clone().do([]*manager{a, b}[i%2], update); w.Code {
				case 200:
					mu.Lock()
					added++
					mu.Unlock()
				case http.StatusConflict:
				default:
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		}
		wg.Go(func() {
			if w := client.do(b, login("ann")); w.Code != 200 {
				t.Errorf("login: %d %s", w.Code, w.Body)
			}
		})
		wg.Wait()
		if v := client.value(t, a); v.Visits != added || v.User != "ann" {
			t.Fatalf("%d updates succeeded, the session has %+v", added, v)
		}
	}
}

func TestADumpHoldsNoToken(t *testing.T) {
	r, rdb := openSingle(t)
	p := prefix()
	m := newManager(t, New(rdb, Options{Prefix: p}), patient)
	var tokens []string
	for i := range 3 {
		client := newBrowser()
		want(t, client.do(m, update), 200)
		tokens = append(tokens, client.token())
		want(t, client.do(m, login("ann@example.com")), 200)
		tokens = append(tokens, client.token())
		if i > 0 {
			want(t, client.do(m, rotate), 200) // leaves a pointer with the successor's token in it
			tokens = append(tokens, client.token())
		}
	}
	ctx := t.Context()
	if err := rdb.Redis().Save(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	_ = r
	var dump strings.Builder
	keys, err := rdb.Redis().Keys(ctx, p+"*").Result()
	if err != nil || len(keys) < 8 {
		t.Fatal(keys, err)
	}
	for _, k := range keys {
		b, err := rdb.Redis().Dump(ctx, k).Result()
		if err != nil {
			t.Fatal(err)
		}
		dump.WriteString(k + "\n" + b + "\n")
		if s, err := rdb.Redis().Get(ctx, k).Result(); err == nil { // DUMP may compress
			dump.WriteString(s + "\n")
		}
	}
	text := dump.String()
	if strings.Contains(text, "ann@example.com") != true {
		t.Error("the value is not in the dump: the search finds nothing") // the application's own value has the name
	}
	seen := map[string]int{}
	for n, token := range tokens {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i+8 <= len(raw); i++ {
			w := raw[i : i+8]
			for form, needle := range map[string]string{
				"raw": string(w), "hex": hex.EncodeToString(w), "HEX": strings.ToUpper(hex.EncodeToString(w)),
			} {
				if strings.Contains(text, needle) {
					t.Errorf("token %d: bytes %d to %d are in the dump, %s", n, i, i+8, form)
				}
			}
			if m, ok := seen[string(w)]; ok {
				t.Errorf("tokens %d and %d have 8 bytes in common", m, n)
			}
			seen[string(w)] = n
		}
		for i := 0; i+10 <= len(token); i++ { // 10 characters of the cookie are 7.5 bytes
			if strings.Contains(text, token[i:i+10]) {
				t.Errorf("token %d: characters %d to %d are in the dump", n, i, i+10)
			}
		}
		std := base64.StdEncoding.EncodeToString(raw)
		for i := 0; i+10 <= len(std); i++ {
			if strings.Contains(text, std[i:i+10]) {
				t.Errorf("token %d: characters %d to %d are in the dump, in standard base64", n, i, i+10)
			}
		}
	}
}
