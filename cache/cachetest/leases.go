package cachetest

import (
	"time"

	"github.com/fairlead/fairlead/cache"
)

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
