package session

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

// both is a store with hooks that keeps its index.
type both struct {
	Store
	UserIndex
}

// gobs is another codec than JSON.
type gobs struct{ format byte }

func (g gobs) Format() byte { return g.format }

func (gobs) Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(v)
	return b.Bytes(), err
}

func (gobs) Unmarshal(data []byte, v any) error {
	return gob.NewDecoder(bytes.NewReader(data)).Decode(v)
}

// TestCodecsAreReplaced: a roll-out in two steps loses nobody; one that skips the first shows its clients as anonymous to old
// processes, which leave their sessions alone.
func TestCodecsAreReplaced(t *testing.T) {
	store := NewMemory(0)
	old := manager(t, store, Options{})
	first := manager(t, store, Options{Codecs: []Codec{JSON, gobs{32}}})
	second := manager(t, store, Options{Codecs: []Codec{gobs{32}, JSON}})
	cookie := begin(t, old)
	for i, m := range []*Manager[visitor]{first, second, first, second} {
		s := request(m, cookie)
		if v, err := s.Update(t.Context(), visit); err != nil || v.Visits != 2+i {
			t.Fatalf("step %d: %+v, %v", i, v, err)
		}
	}
	s := request(second, cookie)
	if _, err := s.Update(t.Context(), func(*visitor) error { return nil }); err != nil || s.snap.format != 32 {
		t.Fatalf("%v, format %d", err, s.snap.format)
	}
	before := s.snap.Version
	if v := get(t, old, cookie); v.Visits != 0 {
		t.Errorf("an unknown format: %+v", v)
	}
	if _, err := request(old, cookie).Update(t.Context(), visit); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Update of an unknown format: %v", err)
	}
	for _, f := range []func(*Session[visitor]) error{
		func(s *Session[visitor]) error { return s.Rotate(t.Context()) },
		func(s *Session[visitor]) error {
			l, err := s.BeginLogin(t.Context(), "ann")
			if err == nil {
				err = l.Commit(t.Context())
			}
			return err
		},
	} {
		if err := f(request(old, cookie)); !errors.Is(err, ErrUnavailable) {
			t.Errorf("an unknown format: %v", err)
		}
	}
	s = request(second, cookie)
	if v, err := s.Get(t.Context()); err != nil || v.Visits != 5 || s.snap.Version != before {
		t.Errorf("%+v, %v: was not left alone", v, err)
	}
	// A rotation moves the bytes as they are.
	if err := request(first, cookie).Rotate(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := New[visitor](store, Options{Codecs: []Codec{gobs{5}, nil, JSON, JSON}}); err == nil ||
		!strings.Contains(err.Error(), "Codecs[0].Format() = 5") || !strings.Contains(err.Error(), "Codecs[1] is nil") || !strings.Contains(err.Error(), "Codecs[3].Format() = 1") {
		t.Errorf("%v", err)
	}
}

func TestPartitionedCookies(t *testing.T) {
	m := manager(t, NewMemory(0), Options{Partitioned: true})
	serve := func(cookie string, f func(r *http.Request, s *Session[visitor])) []*http.Cookie {
		r := httptest.NewRequest("GET", "/", nil)
		if cookie != "" {
			r.AddCookie(&http.Cookie{Name: "__Host-session", Value: cookie})
		}
		w := httptest.NewRecorder()
		m.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { f(r, m.From(r.Context())) })).ServeHTTP(w, r)
		return w.Result().Cookies()
	}
	set := serve("", func(r *http.Request, s *Session[visitor]) {
		s.Update(r.Context(), visit)
		causal.From(r.Context()).Domain("db").Wrote("5")
	})
	set = append(set, serve(set[0].Value, func(r *http.Request, s *Session[visitor]) { s.Logout(r.Context()) })...)
	if len(set) < 3 {
		t.Fatal(set)
	}
	for _, c := range set {
		if !c.Partitioned || c.SameSite != http.SameSiteNoneMode || !c.Secure || !c.HttpOnly || !strings.HasPrefix(c.Name, "__Host-") || c.Path != "/" {
			t.Errorf("%+v", c)
		}
	}
	if _, err := New[visitor](NewMemory(0), Options{Partitioned: true, Insecure: true}); err == nil || !strings.Contains(err.Error(), "Options.Partitioned") {
		t.Errorf("%v", err)
	}
}

func TestALimitOfSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t, NewMemory(0), Options{MaxSessions: 2})
		var cookies []string
		add := func() {
			s := request(m, "")
			logIn(t, m, s, "ann")
			cookies = append(cookies, s.token.text())
		}
		who := func() (in []int) {
			for i, c := range cookies {
				if get(t, m, c).User == "ann" {
					in = append(in, i)
				}
			}
			return in
		}
		for range 3 {
			add()
			time.Sleep(time.Second)
		}
		if in := who(); !slices.Equal(in, []int{1, 2}) {
			t.Errorf("after three logins %v are in", in)
		}
		// A second login in place of the first of a session does not count it, and a rotation ends none.
		s := request(m, cookies[2])
		logIn(t, m, s, "ann")
		cookies[2] = s.token.text()
		s = request(m, cookies[1])
		if err := s.Rotate(t.Context()); err != nil {
			t.Error(err)
		}
		cookies[1] = s.token.text()
		if in := who(); !slices.Equal(in, []int{1, 2}) {
			t.Errorf("after a second login and a rotation %v are in", in)
		}
		other := request(m, "")
		logIn(t, m, other, "bob")
		if in := who(); !slices.Equal(in, []int{1, 2}) {
			t.Errorf("after another user's login %v are in", in)
		}
		m.Close()
	})
	_, err := New[visitor](plain{NewMemory(0)}, Options{MaxSessions: 2})
	if err == nil || !strings.Contains(err.Error(), "no UserIndex") {
		t.Errorf("a store without an index: %v", err)
	}
	if _, err := New[visitor](NewMemory(0), Options{MaxSessions: -1, WatchEvery: 1}); err == nil ||
		!strings.Contains(err.Error(), "Options.MaxSessions = -1") || !strings.Contains(err.Error(), "Options.WatchEvery = 1ns") {
		t.Errorf("%v", err)
	}
}

// TestALoginTakesNoLongerThanItsFence lasts.
func TestALoginTakesNoLongerThanItsFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := manager(t, NewMemory(0), Options{})
		for _, c := range []struct {
			wait time.Duration
			want error
		}{{15*time.Minute - time.Second, nil}, {15*time.Minute + time.Second, ErrRevoked}} {
			l, err := request(m, "").BeginLogin(t.Context(), "ann")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(c.wait)
			if err := l.Commit(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("Commit %v after BeginLogin: %v, want %v", c.wait, err, c.want)
			}
		}
		m.Close()
	})
}

// full is a store that says what it has dropped.
type full struct {
	Store
	evicted, asked atomic.Uint64
}

func (s *full) Evictions(context.Context) (uint64, error) {
	s.asked.Add(1)
	return s.evicted.Load(), nil
}

func TestEvictionsAreShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &full{Store: NewMemory(0)}
		m := manager(t, store, Options{Idle: 10 * time.Minute})
		cookie := begin(t, m)
		use := func() {
			time.Sleep(2 * time.Minute)
			s := request(m, cookie)
			s.Get(t.Context())
			s.afterResponse(t.Context())
			time.Sleep(2 * time.Second)
		}
		use()
		store.evicted.Store(3)
		use()
		if n := m.Stats().Evicted; n != 3 || store.asked.Load() != 2 {
			t.Errorf("Evicted %d, asked %d times", n, store.asked.Load())
		}
		m.Close()
	})
}

// TestARotationKeepsTheKey: after an old key is dropped there is no session that RevokeUser would not find.
func TestARotationKeepsTheKey(t *testing.T) {
	k1, k2 := bytes.Repeat([]byte("1"), 32), bytes.Repeat([]byte("2"), 32)
	store := NewMemory(0)
	with := func(keys ...[]byte) *Manager[visitor] {
		return manager(t, store, Options{Causal: causal.Options{Keys: keys}})
	}
	before, during, after := with(k1), with(k2, k1), with(k2)
	s := request(before, "")
	logIn(t, before, s, "ann")
	s = request(during, s.token.text())
	if err := s.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if v := get(t, during, s.token.text()); v.User != "ann" {
		t.Errorf("%+v", v)
	}
	if err := after.RevokeUser(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	if v := get(t, after, s.token.text()); v.User != "" {
		t.Errorf("%+v: lives, and the revocation did not find it", v)
	}
	// A new login takes the value along, and the new key.
	s = request(during, s.token.text())
	l, err := s.BeginLogin(t.Context(), "ann")
	if err == nil {
		err = l.Commit(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if v := get(t, after, s.token.text()); v.User != "ann" {
		t.Errorf("after a login with the new key: %+v", v)
	}
}
