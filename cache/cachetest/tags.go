package cachetest

import (
	"slices"
	"time"

	"github.com/fairlead/fairlead/cache"
)

// dropTags invalidates tags, or everything.
func (s *suite) dropTags(r cache.Remote, inv cache.Invalidation) cache.Event {
	s.Helper()
	inv.TokenTTL, inv.StampTTL, inv.From = hold, hold, "me"
	ev, err := r.Invalidate(s.Context(), s.space, inv)
	if err != nil {
		s.Fatalf("Invalidate(%+v) = %v", inv, err)
	}
	return ev
}

// storeTagged loads a value after the clock was read as heard.
func (s *suite) storeTagged(r cache.Remote, key, heard string, tags ...string) {
	s.Helper()
	lease := id()
	s.get(r, cache.Ask{Key: key, Lease: lease})
	if !s.put(r, cache.Fill{Key: key, Lease: lease, Data: []byte("v"), Tags: tags, Heard: heard}) {
		s.Fatalf("a fill of %q with its lease was refused", key)
	}
}

// stamp returns the stamp of a record, as it is read with and without a lease.
func (s *suite) stamp(r cache.Remote, key string, tags ...string) string {
	s.Helper()
	plain, leased := s.get(r, cache.Ask{Key: key}), s.get(r, cache.Ask{Key: key, Lease: id()})
	for _, got := range []cache.Record{plain, leased} {
		if got.ID == "" || string(got.Data) != "v" || !slices.Equal(got.Tags, tags) || got.Stamp != plain.Stamp {
			s.Fatalf("record of %q = %+v, want one with tags %q and stamp %q", key, got, tags, plain.Stamp)
		}
	}
	return plain.Stamp
}

func (s *suite) stamps() {
	before := s.drop(s.a, "", "x").Reading()
	odd := "\x00\xff}:{"
	s.storeTagged(s.a, "both", before, "blue", odd)
	s.storeTagged(s.a, "blue", before, "blue")
	s.storeTagged(s.a, "none", before)
	for key, tags := range map[string][]string{"both": {"blue", odd}, "blue": {"blue"}, "none": nil} {
		if got := s.stamp(s.b, key, tags...); got > before {
			s.Fatalf("stamp of %q = %q though nothing was invalidated after %q", key, got, before)
		}
	}
	first := s.dropTags(s.b, cache.Invalidation{Tags: []string{odd, "unknown"}})
	if got := s.stamp(s.a, "both", "blue", odd); got != first.Reading() {
		s.Fatalf("stamp after its tag was invalidated = %q, want %q", got, first.Reading())
	}
	if got := s.stamp(s.a, "blue", "blue"); got > before {
		s.Fatalf("stamp after another tag was invalidated = %q", got)
	}
	second := s.dropTags(s.b, cache.Invalidation{Tags: []string{"blue"}})
	if second.N != first.N+1 || second.Reading() <= first.Reading() {
		s.Fatalf("the clock went from %+v to %+v", first, second)
	}
	for key, tags := range map[string][]string{"both": {"blue", odd}, "blue": {"blue"}} {
		if got := s.stamp(s.a, key, tags...); got != second.Reading() {
			s.Fatalf("stamp of %q = %q, want %q", key, got, second.Reading())
		}
	}
	// A fill does not move a stamp that is there.
	s.storeTagged(s.a, "late", before, "blue")
	if got := s.stamp(s.b, "late", "blue"); got != second.Reading() {
		s.Fatalf("stamp of a record that began before its tag was invalidated = %q, want %q", got, second.Reading())
	}
	if got := s.stamp(s.a, "none"); got > before {
		s.Fatalf("stamp of a record without tags = %q", got)
	}
}

func (s *suite) everything() {
	before := s.drop(s.a, "", "x").Reading()
	s.storeTagged(s.a, "none", before)
	s.storeTagged(s.a, "blue", before, "blue")
	all := s.dropTags(s.b, cache.Invalidation{All: true})
	if a, b := s.stamp(s.a, "none"), s.stamp(s.a, "blue", "blue"); a != all.Reading() || b != all.Reading() {
		s.Fatalf("stamps %q and %q after everything was invalidated, want %q", a, b, all.Reading())
	}
	other := *s
	other.space += ".other"
	other.storeTagged(s.a, "none", "")
	if got := other.stamp(s.a, "none"); got != "" {
		s.Fatalf("stamp in another space = %q", got)
	}
}

func (s *suite) lostStamp() {
	heard := s.drop(s.a, "", "x").Reading()
	lease := id()
	s.get(s.a, cache.Ask{Key: "k", Lease: lease})
	s.put(s.a, cache.Fill{Key: "k", Lease: lease, Data: []byte("v"), Tags: []string{"brief"}, Heard: heard, TTL: hold})
	inv := cache.Invalidation{Tags: []string{"brief"}, StampTTL: 20 * time.Millisecond, From: "me"}
	if _, err := s.a.Invalidate(s.Context(), s.space, inv); err != nil {
		s.Fatal(err)
	}
	s.eventually("the record is spoilt with the stamp gone", func() bool { return s.get(s.b, cache.Ask{Key: "k"}).Stamp > "z" })
	s.storeTagged(s.a, "other", heard, "brief")
	if got := s.stamp(s.b, "other", "brief"); got != heard {
		s.Fatalf("stamp made by a fill = %q, want %q", got, heard)
	}
}

func (s *suite) hearTags() {
	s.dropTags(s.a, cache.Invalidation{Keys: []string{"k"}, Token: "keys=1"})
	s.dropTags(s.a, cache.Invalidation{Tags: []string{"blue"}, Token: "db=02"})
	s.dropTags(s.a, cache.Invalidation{All: true, Token: "db=01"})
	events := s.hear(s.b)
	var last cache.Event
	select {
	case last = <-events:
	case <-time.After(backstop):
		s.Fatal("a listener that connects says nothing")
	}
	if !last.Connected || last.N != 3 || last.Invalidation.Token != "db=02" {
		s.Fatalf("first event = %+v, want the clock at 3 and the token of what was invalidated by tag", last)
	}
	for _, inv := range []cache.Invalidation{{Tags: []string{"blue", "\x00 7:"}}, {All: true}, {Keys: []string{"k"}}} {
		sent := s.dropTags(s.a, inv)
		got := s.next(events, &last)
		if got.N != sent.N || !slices.Equal(got.Invalidation.Tags, inv.Tags) || got.Invalidation.All != inv.All ||
			!slices.Equal(got.Invalidation.Keys, inv.Keys) {
			s.Fatalf("heard %+v, want %+v", got, sent)
		}
	}
}
