// Package cachetest checks that a cache.Remote does what the cache relies on.
package cachetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/pool/causal"
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

func (s *suite) leaseIsExclusive() {
	mine := id()
	if !s.get(s.a, cache.Ask{Key: "k", Lease: mine}).Leased {
		s.Fatal("no lease of a missing key")
	}
	if s.get(s.b, cache.Ask{Key: "k", Lease: id()}).Leased {
		s.Fatal("two leases of one key")
	}
	if !s.get(s.a, cache.Ask{Key: "k", Lease: mine}).Leased {
		s.Fatal("a lease cannot be renewed")
	}
	s.want(s.b, "k", "", "")
}

func (s *suite) leaseExpires() {
	first := id()
	if !s.get(s.a, cache.Ask{Key: "k", Lease: first, Hold: 20 * time.Millisecond}).Leased {
		s.Fatal("no lease")
	}
	second := id()
	s.eventually("the lease of a process that died is free", func() bool {
		return s.get(s.b, cache.Ask{Key: "k", Lease: second}).Leased
	})
	if s.put(s.a, cache.Fill{Key: "k", Lease: first, Data: []byte("late")}) {
		s.Fatal("a fill was stored after its lease had run out")
	}
	if !s.put(s.b, cache.Fill{Key: "k", Lease: second, Data: []byte("new")}) {
		s.Fatal("the second lease did not count")
	}
	s.want(s.a, "k", second, "new")
}

func (s *suite) release() {
	mine := id()
	s.get(s.a, cache.Ask{Key: "k", Lease: mine})
	s.put(s.a, cache.Fill{Key: "k", Lease: mine})
	s.want(s.b, "k", "", "")
	if !s.get(s.b, cache.Ask{Key: "k", Lease: id()}).Leased {
		s.Fatal("a lease that was given back is not free")
	}
	s.put(s.a, cache.Fill{Key: "k", Lease: mine}) // again: not his any more
	if s.get(s.a, cache.Ask{Key: "k", Lease: id()}).Leased {
		s.Fatal("giving back a lease ended another's")
	}
}

func (s *suite) fillNeedsLease() {
	if s.put(s.a, cache.Fill{Key: "k", Lease: id(), Data: []byte("v")}) {
		s.Fatal("a fill was stored without a lease")
	}
	s.want(s.a, "k", "", "")
	lease := s.store(s.a, "k", "v\x00\xff")
	s.want(s.b, "k", lease, "v\x00\xff")
	if got := s.get(s.b, cache.Ask{Key: "k", Lease: id()}); got.Leased || got.ID != lease || string(got.Data) != "v\x00\xff" || got.Left <= 0 {
		s.Fatalf("a lease was asked for where there is a record: %+v", got)
	}
	s.want(s.b, "other", "", "")
}

func (s *suite) fillTwice() {
	lease := s.store(s.a, "k", "v")
	if !s.put(s.a, cache.Fill{Key: "k", Lease: lease, Data: []byte("v")}) {
		s.Fatal("a fill whose answer was lost and that is sent again must be answered as before")
	}
	s.want(s.b, "k", lease, "v")
}

func (s *suite) recordExpires() {
	lease := id()
	s.get(s.a, cache.Ask{Key: "k", Lease: lease})
	s.put(s.a, cache.Fill{Key: "k", Lease: lease, Data: []byte("v"), TTL: 20 * time.Millisecond})
	s.eventually("the record is gone", func() bool { return s.get(s.b, cache.Ask{Key: "k"}).ID == "" })
}

func (s *suite) instead() {
	old := s.store(s.a, "k", "old")
	mine := id()
	if s.get(s.b, cache.Ask{Key: "k", Lease: mine, Instead: id()}).Leased {
		s.Fatal("a lease for replacing a record that is not there")
	}
	got := s.get(s.b, cache.Ask{Key: "k", Lease: mine, Instead: old})
	if !got.Leased || got.ID != old || string(got.Data) != "old" {
		s.Fatalf("lease for replacing a record = %+v", got)
	}
	s.want(s.a, "k", old, "old")
	if s.get(s.a, cache.Ask{Key: "k", Lease: id(), Instead: old}).Leased {
		s.Fatal("two leases for replacing one record")
	}
	if !s.put(s.b, cache.Fill{Key: "k", Lease: mine, Data: []byte("new")}) {
		s.Fatal("the replacement was refused")
	}
	s.want(s.a, "k", mine, "new")
}

func (s *suite) invalidate() {
	s.store(s.a, "stored", "old")
	late := id()
	s.get(s.a, cache.Ask{Key: "loading", Lease: late})
	s.drop(s.b, "", "stored", "loading", "unknown")
	s.want(s.a, "stored", "", "")
	if s.put(s.a, cache.Fill{Key: "loading", Lease: late, Data: []byte("old")}) {
		s.Fatal("a value was stored whose load began before the invalidation")
	}
	s.want(s.a, "loading", "", "")
	s.store(s.b, "loading", "new")
}

func (s *suite) renew() {
	if s.get(s.a, cache.Ask{Key: "k", Lease: id(), Renew: true}).Leased {
		s.Fatal("a renewal took a lease that nobody had")
	}
	mine := id()
	s.get(s.a, cache.Ask{Key: "k", Lease: mine, Hold: hold / 2})
	if !s.get(s.a, cache.Ask{Key: "k", Lease: mine, Renew: true}).Leased {
		s.Fatal("a lease that stands was not renewed")
	}
	if s.get(s.b, cache.Ask{Key: "k", Lease: id(), Renew: true}).Leased {
		s.Fatal("a renewal took another's lease")
	}
	s.drop(s.b, "", "k")
	if s.get(s.a, cache.Ask{Key: "k", Lease: mine, Renew: true}).Leased {
		s.Fatal("a renewal took a lease again that an invalidation had ended")
	}
	if s.put(s.a, cache.Fill{Key: "k", Lease: mine, Data: []byte("old")}) {
		s.Fatal("a value was stored whose load began before the invalidation, by a lease that was renewed after it")
	}
	s.want(s.b, "k", "", "")

	// The same where a record is being replaced.
	old := s.store(s.b, "k", "old")
	mine = id()
	s.get(s.a, cache.Ask{Key: "k", Lease: mine, Instead: old})
	if !s.get(s.a, cache.Ask{Key: "k", Lease: mine, Instead: old, Renew: true}).Leased {
		s.Fatal("a lease for replacing a record was not renewed")
	}
	s.drop(s.b, "", "k")
	if s.get(s.a, cache.Ask{Key: "k", Lease: mine, Instead: old, Renew: true}).Leased {
		s.Fatal("a renewal took a lease again that an invalidation had ended")
	}
	s.put(s.a, cache.Fill{Key: "k", Lease: mine}) // nothing of it is left in the way
	s.store(s.b, "k", "new")
}

func (s *suite) tokens() {
	token := func(key string) string {
		s.Helper()
		lease := id()
		r := s.get(s.b, cache.Ask{Key: key, Lease: lease})
		s.put(s.b, cache.Fill{Key: key, Lease: lease})
		return r.Token
	}
	merged := ""
	soon := time.Now().Unix()
	later, sooner := fmt.Sprintf("*=%d", soon+8), fmt.Sprintf("*=%d", soon+6)
	for _, next := range []string{"b=0A", "a=00000001", "b=09", "c=1,d=2", "", later, "a=0000000a,b=0B", sooner} {
		s.drop(s.a, next, "k")
		var err error
		if merged, err = causal.Merge(merged, next); err != nil {
			s.Fatal(err)
		}
		got := token("k")
		if read, err := causal.Merge(got); err != nil || read != merged { // in any order that causal reads
			s.Fatalf("token after %q = %q, want %q (%v)", next, got, merged, err)
		}
	}
	if got := token("other"); got != "" {
		s.Fatalf("token of a key never invalidated = %q", got)
	}
	s.store(s.a, "k", "v") // a fill does not end it
	s.drop(s.a, "", "k")
	if got := token("k"); got == "" {
		s.Fatal("the token went with the record")
	}
}

func (s *suite) clock() {
	const each = 25
	var mu sync.Mutex
	var numbers []uint64
	incarnations := map[string]bool{}
	var wg sync.WaitGroup
	for _, r := range []cache.Remote{s.a, s.b, s.a, s.b} {
		wg.Go(func() {
			for i := range each {
				ev, err := r.Invalidate(s.Context(), s.space, cache.Invalidation{Keys: []string{fmt.Sprint(i)}, From: "me"})
				if err != nil {
					s.Error(err)
					return
				}
				mu.Lock()
				numbers = append(numbers, ev.N)
				incarnations[ev.Incarnation] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != uint64(i+1) {
			s.Fatalf("numbers %v, want 1 to %d", numbers, 4*each)
		}
	}
	if len(incarnations) != 1 {
		s.Fatalf("incarnations %v, want one", incarnations)
	}
	if ev := s.drop(s.a, "", "k"); ev.N != 4*each+1 || !ev.Connected || len(ev.Invalidation.Keys) != 1 {
		s.Fatalf("Invalidate = %+v, want the event it sent, number %d", ev, 4*each+1)
	}
}

// hear listens until the test ends.
func (s *suite) hear(r cache.Remote) <-chan cache.Event {
	events := make(chan cache.Event, 1000)
	ctx, cancel := context.WithCancelCause(s.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Listen(ctx, s.space, func(ev cache.Event) { events <- ev }) }()
	s.Cleanup(func() {
		over := errors.New("the test is over")
		cancel(over)
		select {
		case err := <-ended:
			if !errors.Is(err, over) && !errors.Is(err, context.Canceled) {
				s.Errorf("Listen = %v, want what ended its context", err)
			}
		case <-time.After(backstop):
			s.Error("Listen did not end with its context")
		}
	})
	return events
}

// next returns the next event that is an invalidation, and checks those that are not.
func (s *suite) next(events <-chan cache.Event, last *cache.Event) cache.Event {
	s.Helper()
	for end := time.After(backstop); ; {
		select {
		case ev := <-events:
			switch {
			case !ev.Connected:
				s.Fatal("the connection was lost; was the store restarted?")
			case last.Connected && (ev.Incarnation != last.Incarnation || ev.N < last.N):
				s.Fatalf("the clock went from %+v to %+v", *last, ev)
			case last.Connected && len(ev.Invalidation.Keys) == 0 && ev.N != last.N:
				s.Fatalf("the clock is reported as %d before what made it so was handed over, after %d", ev.N, last.N)
			}
			*last = ev
			if len(ev.Invalidation.Keys) > 0 {
				return ev
			}
		case <-end:
			s.Fatal("no event")
		}
	}
}

func (s *suite) listen() {
	before := s.drop(s.a, "", "before")
	heard := []<-chan cache.Event{s.hear(s.a), s.hear(s.b)}
	last := make([]cache.Event, len(heard))
	for i, events := range heard {
		select {
		case last[i] = <-events:
		case <-time.After(backstop):
			s.Fatal("a listener that connects says nothing")
		}
		if ev := last[i]; !ev.Connected || ev.N != before.N || ev.Incarnation != before.Incarnation || len(ev.Invalidation.Keys) > 0 {
			s.Fatalf("first event = %+v, want a report of the clock %+v", ev, before)
		}
	}
	other := *s
	other.space += ".other"
	for i := range 50 {
		from := []cache.Remote{s.a, s.b}[i%2]
		keys := []string{fmt.Sprintf("k%d", i), "\x00\xff 7:\r\n{}"}
		sent := s.drop(from, "db=01", keys...)
		other.drop(from, "", "elsewhere")
		for j, events := range heard {
			got := s.next(events, &last[j])
			if got.N != sent.N || got.Incarnation != sent.Incarnation || !slices.Equal(got.Invalidation.Keys, keys) ||
				got.Invalidation.Token != "db=01" || got.Invalidation.From != "me" {
				s.Fatalf("heard %+v, want %+v", got, sent)
			}
		}
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

// races has loaders and writers at one key: what is stored when an invalidation has returned was loaded after it was called.
func (s *suite) races() {
	const rounds = 100
	var version sync.Map // lease -> the version it loaded
	var current struct {
		sync.Mutex
		n int
	}
	stop := make(chan struct{})
	var loaders sync.WaitGroup
	for _, r := range []cache.Remote{s.a, s.b, s.a, s.b} {
		loaders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				lease := id()
				got, err := r.Get(s.Context(), s.space, []cache.Ask{{Key: "k", Lease: lease, Hold: hold}})
				if err != nil {
					s.Error(err)
					return
				}
				if !got[0].Leased {
					continue
				}
				current.Lock()
				version.Store(lease, current.n)
				current.Unlock()
				if _, err := r.Put(s.Context(), s.space, []cache.Fill{{Key: "k", Lease: lease, Data: []byte("v"), TTL: hold}}); err != nil {
					s.Error(err)
					return
				}
			}
		})
	}
	for n := 1; n <= rounds && !s.Failed(); n++ {
		current.Lock()
		current.n = n
		current.Unlock()
		s.drop(s.b, "", "k")
		if got := s.get(s.a, cache.Ask{Key: "k"}); got.ID != "" {
			if v, _ := version.Load(got.ID); v.(int) < n {
				s.Errorf("version %d stands after version %d was invalidated", v, n)
			}
		}
	}
	close(stop)
	loaders.Wait()
}
