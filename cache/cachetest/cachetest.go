// Package cachetest checks that a cache.Remote does what the cache relies on.
package cachetest

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cache"
)

// backstop bounds waits that end at once when all is well.
const backstop = time.Minute

// hold is longer than any test.
const hold = 10 * time.Minute

// Run runs the suite. open returns a Remote, another one at each call, as another process would have: all on the same store.
// Spaces have names that nothing else uses, so the store need not be empty.
func Run(t *testing.T, open func(t *testing.T) cache.Remote) {
	for _, test := range []struct {
		name string
		run  func(*suite)
	}{
		{"nothing is there at first", (*suite).empty},
		{"one holds the lease", (*suite).leaseIsExclusive},
		{"a lease runs out", (*suite).leaseExpires},
		{"a lease can be given back", (*suite).release},
		{"a fill needs its lease", (*suite).fillNeedsLease},
		{"a fill says yes twice", (*suite).fillTwice},
		{"a record runs out", (*suite).recordExpires},
		{"a record can be replaced", (*suite).instead},
		{"an invalidation beats a load under way", (*suite).invalidate},
		{"a lease that ended is not renewed", (*suite).renew},
		{"tokens are merged", (*suite).tokens},
		{"the clock counts without gaps", (*suite).clock},
		{"listeners hear everything in order", (*suite).listen},
		{"batches keep their order", (*suite).batch},
		{"keys and spaces do not meet", (*suite).apart},
		{"tags have stamps", (*suite).stamps},
		{"everything has a stamp", (*suite).everything},
		{"a stamp that was lost spoils its records", (*suite).lostStamp},
		{"tags are heard of", (*suite).hearTags},
		{"races", (*suite).races},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(&suite{T: t, open: open, a: open(t), b: open(t), space: "test." + rand.Text()})
		})
	}
}

type suite struct {
	*testing.T
	open  func(*testing.T) cache.Remote
	a, b  cache.Remote
	space string
}

// id returns a lease nobody else has.
func id() string { return rand.Text()[:16] }

func (s *suite) get(r cache.Remote, ask cache.Ask) cache.Record {
	s.Helper()
	if ask.Lease != "" && ask.Hold == 0 {
		ask.Hold = hold
	}
	records, err := r.Get(s.Context(), s.space, []cache.Ask{ask})
	if err != nil || len(records) != 1 {
		s.Fatalf("Get(%+v) = %+v, %v", ask, records, err)
	}
	return records[0]
}

func (s *suite) put(r cache.Remote, f cache.Fill) bool {
	s.Helper()
	if f.TTL == 0 {
		f.TTL = hold
	}
	stored, err := r.Put(s.Context(), s.space, []cache.Fill{f})
	if err != nil || len(stored) != 1 {
		s.Fatalf("Put(%+v) = %v, %v", f, stored, err)
	}
	return stored[0]
}

func (s *suite) drop(r cache.Remote, token string, keys ...string) cache.Event {
	s.Helper()
	ev, err := r.Invalidate(s.Context(), s.space, cache.Invalidation{Keys: keys, Token: token, TokenTTL: hold, From: "me"})
	if err != nil {
		s.Fatalf("Invalidate(%q) = %v", keys, err)
	}
	return ev
}

// store loads a value as a cache would.
func (s *suite) store(r cache.Remote, key, data string) (lease string) {
	s.Helper()
	lease = id()
	if got := s.get(r, cache.Ask{Key: key, Lease: lease}); !got.Leased {
		s.Fatalf("no lease for %q: %+v", key, got)
	}
	if !s.put(r, cache.Fill{Key: key, Lease: lease, Data: []byte(data)}) {
		s.Fatalf("a fill of %q with its lease was refused", key)
	}
	return lease
}

func (s *suite) want(r cache.Remote, key, id, data string) {
	s.Helper()
	got := s.get(r, cache.Ask{Key: key})
	if got.ID != id || string(got.Data) != data || got.Leased {
		s.Fatalf("record of %q = %+v, want %q of %q", key, got, data, id)
	}
	if id != "" && (got.Left <= 0 || got.Left > hold) {
		s.Fatalf("record of %q is left %v, want up to %v", key, got.Left, hold)
	}
}

func (s *suite) eventually(what string, is func() bool) {
	s.Helper()
	for end := time.Now().Add(backstop); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("never: %s", what)
		}
	}
}

func (s *suite) empty() {
	s.want(s.a, "k", "", "")
	if got := s.get(s.a, cache.Ask{Key: "k", Lease: id()}); !got.Leased || got.ID != "" || got.Token != "" {
		s.Fatalf("first ask with a lease = %+v, want the lease and nothing else", got)
	}
}

func (s *suite) batch() {
	const n = 40
	asks := make([]cache.Ask, n)
	for i := range asks {
		asks[i] = cache.Ask{Key: fmt.Sprint(i), Hold: hold}
		if i%2 == 0 {
			asks[i].Lease = id()
		}
		if i%4 == 0 {
			s.store(s.a, fmt.Sprint(i), fmt.Sprintf("value %d", i))
		}
	}
	records, err := s.b.Get(s.Context(), s.space, asks)
	if err != nil || len(records) != n {
		s.Fatal(len(records), err)
	}
	var fills []cache.Fill
	for i, r := range records {
		stored := i%4 == 0
		if (r.ID != "") != stored || stored && string(r.Data) != fmt.Sprintf("value %d", i) || r.Leased != (i%4 == 2) {
			s.Fatalf("answer %d = %+v", i, r)
		}
		lease := asks[i].Lease
		if lease == "" {
			lease = id()
		}
		fills = append(fills, cache.Fill{Key: asks[i].Key, Lease: lease, Data: []byte("filled"), TTL: hold})
	}
	stored, err := s.b.Put(s.Context(), s.space, fills)
	if err != nil || len(stored) != n {
		s.Fatal(len(stored), err)
	}
	for i, ok := range stored {
		if ok != (i%4 == 2) {
			s.Fatalf("fill %d stored: %v", i, ok)
		}
	}
}

func (s *suite) apart() {
	keys := []string{"", "a", "a:", ":a", "a}", "{a}", "}:lease", "a:lease", "a}:lease", "a}:token", "é", "\x00", "\xff\xfe", "a b", "a\r\nb",
		"*", "[a-z]", strings.Repeat("x", 200), strings.Repeat("x", 199)}
	leases := make(map[string]string)
	for _, key := range keys {
		leases[key] = s.store(s.a, key, "value of "+key)
	}
	other := *s
	other.space += ".other"
	for _, key := range keys {
		s.want(s.b, key, leases[key], "value of "+key)
		other.want(s.b, key, "", "")
	}
	s.drop(s.a, "", "a")
	other.drop(s.a, "", "a:")
	for _, key := range keys {
		if key != "a" {
			s.want(s.b, key, leases[key], "value of "+key)
		}
	}
}
