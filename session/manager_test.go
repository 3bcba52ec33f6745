package session

import (
	"bytes"
	"encoding/base64"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
)

func logIn(t *testing.T, m *Manager[visitor], s *Session[visitor], user string) {
	t.Helper()
	l, err := s.BeginLogin(t.Context(), user)
	if err == nil {
		err = l.Commit(t.Context())
	}
	if err == nil {
		_, err = s.Update(t.Context(), func(v *visitor) error { v.User = user; return nil })
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Commit(t.Context()); err == nil {
		t.Error("a second Commit succeeded")
	}
}

func TestKeysAreReplaced(t *testing.T) {
	k1, k2 := bytes.Repeat([]byte("1"), 32), bytes.Repeat([]byte("2"), 32)
	store := NewMemory(0)
	with := func(keys ...[]byte) *Manager[visitor] {
		return manager(t, store, Options{Causal: causal.Options{Keys: keys}})
	}
	before, during, after := with(k1), with(k2, k1), with(k2)
	s := request(before, "")
	logIn(t, before, s, "ann")
	old := s.token.text()
	if v := get(t, during, old); v.User != "ann" {
		t.Errorf("%+v", v)
	}
	s = request(during, old)
	if err := s.Rotate(t.Context()); err != nil {
		t.Fatal(err)
	}
	rotated := s.token.text()
	// The tag is the old key's: the record, and the user's index, stay where they are.
	if v := get(t, during, rotated); v.User != "ann" {
		t.Errorf("%+v", v)
	}
	s = request(during, rotated)
	logIn(t, during, s, "ann") // moves to the new key's index
	if v := get(t, after, s.token.text()); v.User != "ann" {
		t.Errorf("%+v", v)
	}
	if v := get(t, after, old); v.User != "" {
		t.Errorf("%+v: by a key that is no more", v)
	}
	another := request(before, "")
	logIn(t, before, another, "ann")
	n := 0
	for range during.List(t.Context(), "ann") {
		n++
	}
	if n != 2 {
		t.Errorf("%d sessions, want 2, one of each key", n)
	}
	if err := during.RevokeUser(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{s.token.text(), another.token.text(), rotated} {
		if v := get(t, during, c); v.User != "" {
			t.Errorf("%+v: survived the revocation", v)
		}
	}
}

func TestAFormatOfTheFuture(t *testing.T) {
	store := NewMemory(0)
	m := manager(t, store, Options{})
	cookie := begin(t, m)
	s := request(m, cookie)
	s.Get(t.Context())
	r := s.snap.Record
	r.Value = []byte{99, 1, 2, 3}
	if _, ok, err := store.CompareAndSwap(t.Context(), r); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if v := get(t, m, cookie); v.Visits != 0 {
		t.Errorf("%+v", v)
	}
	if _, err := request(m, cookie).Update(t.Context(), visit); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Update: %v", err)
	}
	if now, err := store.Load(t.Context(), r.Tag, r.ID); err != nil || now.Version != r.Version+1 || now.Value[0] != 99 {
		t.Errorf("%+v, %v: was not left alone", now, err)
	}
	if err := request(m, cookie).Logout(t.Context()); err != nil {
		t.Error(err)
	}
	if now, err := store.Load(t.Context(), r.Tag, r.ID); err != nil || now.Version != 0 {
		t.Errorf("%+v, %v: Logout left it", now, err)
	}
}

// plain is a store without the ability UserIndex.
type plain struct{ Store }

func TestAStoreWithoutAnIndex(t *testing.T) {
	m := manager(t, plain{NewMemory(0)}, Options{})
	s := request(m, "")
	logIn(t, m, s, "ann")
	if v := get(t, m, s.token.text()); v.User != "ann" {
		t.Errorf("%+v", v)
	}
	if err := m.RevokeUser(t.Context(), "ann"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("RevokeUser: %v", err)
	}
	for _, err := range m.List(t.Context(), "ann") {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("List: %v", err)
		}
	}
}

func TestMemoryIsBounded(t *testing.T) {
	store := NewMemory(3)
	var last Record
	for i, left := range []time.Duration{4, 3, 5, 6, 7} {
		last = Record{Tag: "t", ID: string(rune('a' + i)), Left: left * time.Minute}
		if _, ok, err := store.Create(t.Context(), last); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	for id, want := range map[string]int64{"a": 0, "b": 0, "c": 1, "d": 1, "e": 1} {
		if r, _ := store.Load(t.Context(), "t", id); r.Version != want {
			t.Errorf("%s: version %d, want %d", id, r.Version, want)
		}
	}
}

func TestTokens(t *testing.T) {
	k := tokenKey(bytes.Repeat([]byte("k"), 32))
	tag := k.userTag("ann")
	a, b := k.mint(tag), k.mint(tag)
	if a.tag != tag || b.tag != tag || k.userTag("bob") == tag {
		t.Fatal("tags")
	}
	for i := 1; i+4 <= rawLen; i++ {
		if bytes.Contains(b.raw[1:], a.raw[i:i+4]) {
			t.Errorf("two tokens of a user share 4 bytes at %d", i)
		}
	}
	raw, ok := parseToken(a.text())
	if !ok || k.open(raw) != a {
		t.Error("a token does not come back from its text")
	}
	if other := tokenKey(bytes.Repeat([]byte("x"), 32)); other.open(raw).tag == tag {
		t.Error("another key finds the tag")
	}
	if sealed := a.seal(b); bytes.Contains(sealed, b.raw[1:9]) {
		t.Error("sealed in the clear")
	} else if got, ok := a.unseal(sealed); !ok || got != b.raw {
		t.Error("a sealed token does not come back")
	} else if _, ok := b.unseal(sealed); ok {
		t.Error("another token unseals")
	}
}

func FuzzParseToken(f *testing.F) {
	k := tokenKey("key of the fuzz test")
	f.Add(k.mint("").text())
	f.Add("")
	f.Add(strings.Repeat("_", textLen))
	f.Fuzz(func(t *testing.T, text string) {
		raw, ok := parseToken(text)
		if ok && base64.RawURLEncoding.EncodeToString(raw[:]) != text {
			t.Errorf("%q has a second spelling", text)
		}
		if ok {
			if tok := k.open(raw); len(tok.tag) != encoding.EncodedLen(tagLen) || strings.ContainsAny(tok.tag, "{}/:") {
				t.Errorf("tag %q", tok.tag)
			}
		}
	})
}

func json1(format byte) bool { return format == 1 }

func FuzzEnvelope(f *testing.F) {
	e := envelope{format: 1, kind: pending, ring: []uint64{1, 2, 3}, created: time.Unix(1e9, 0), causal: "db=1", link: []byte("t/i"), data: []byte(`{"a":1}`)}
	back, err := decodeEnvelope(e.encode(), json1)
	if err != nil || !reflect.DeepEqual(e, back) {
		f.Fatalf("%+v became %+v, %v", e, back, err)
	}
	f.Add(e.encode())
	f.Add([]byte{1, 1, 16})
	f.Add([]byte{2})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeEnvelope(b, json1)
		if err != nil || e.kind == foreign {
			return
		}
		again, err := decodeEnvelope(e.encode(), json1)
		if err != nil || !reflect.DeepEqual(e, again) {
			t.Errorf("%+v became %+v, %v", e, again, err)
		}
	})
}

func TestRing(t *testing.T) {
	var s snapshot
	for op := range uint64(40) {
		s.ring = s.after(op)
		s.Version++
	}
	if len(s.ring) != ringLen || !s.applied(39) || !s.applied(24) || s.applied(23) {
		t.Errorf("%v", s.ring)
	}
	if !s.remembers(24) || s.remembers(23) {
		t.Error("how far back the ring reaches")
	}
}

func TestBadOptionsAreReportedTogether(t *testing.T) {
	_, err := New[chan int](nil, Options{Idle: -1, Absolute: time.Nanosecond, StoreTimeout: -1, Cookie: ";", Causal: causal.Options{Keys: [][]byte{{1}}, For: -1}})
	for _, want := range []string{
		"store is nil", "Options.Idle = -1ns", "Options.Cookie", "Options.StoreTimeout", "Options.Keys[0]", "Options.For", "cannot be encoded",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestSamples(t *testing.T) {
	m := manager(t, NewMemory(0), Options{Name: "shop"})
	begin(t, m)
	n := 0
	for s := range m.Samples() {
		n++
		if s.Name == "fairlead.session.updates" && (s.Value != 1 || s.Attrs[0].Value != "shop") {
			t.Errorf("%+v", s)
		}
	}
	if n != reflect.TypeFor[Stats]().NumField() {
		t.Errorf("%d samples", n)
	}
}
