package ratelimit

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const life = 250 * time.Millisecond

func leased(o *Options) *Options { o.Lease = life; o.Logger = quiet(); return o }

// A process that needs much asks seldom: a trip for a quarter of the burst or what it needs in a lease's life, whichever is less.
func TestLeasesSaveTrips(t *testing.T) {
	for _, test := range []struct {
		name      string
		perSecond int // that the process needs
		burst     int
		most      float64 // trips a request
	}{
		{"20/E and a burst of 80: one in twenty", 80, 80, 0.05},
		{"more of both", 800, 800, 0.005 * 1.2},
		{"a small burst", 800, 40, 0.1 * 1.1},
		{"far below 2/E each asks", 3, 1000, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			store := newFar()
			l := mustNew(t, "x", PerSecond(10_000).Burst(test.burst), *leased(&Options{Store: store}))
			request := func(n int) {
				for range n {
					if d, err := l.Take(t.Context(), "k", 1); err != nil || !d.Allowed || d.Granted != 1 {
						t.Fatalf("got %+v, %v", d, err)
					}
					time.Sleep(time.Second / time.Duration(test.perSecond))
				}
			}
			request(test.perSecond) // it learns what it needs
			before, n := store.asked.Load(), 10*test.perSecond
			request(n)
			trips := store.asked.Load() - before
			if share := float64(trips) / float64(n); share > test.most*1.0001+1/float64(n) {
				t.Errorf("%s: %d trips for %d requests, %.4f each, want at most %.4f", test.name, trips, n, share, test.most)
			}
			if test.most == 1 && trips != int64(n) {
				t.Errorf("%s: %d trips for %d requests", test.name, trips, n)
			}
			if want := min(int64(test.burst/4), max(1, int64(test.perSecond)/4)); store.most.Load() > want {
				t.Errorf("%s: asked for %d at once, want at most %d: a quarter of the burst, or what is needed in 250 ms", test.name, store.most.Load(), want)
			}
			if s := l.Stats(); s.Leased != s.Allowed-uint64(store.asked.Load()) {
				t.Errorf("%s: stats %+v, %d trips", test.name, s, store.asked.Load())
			}
		})
	}
}

// Over a fleet at it with all it can, with processes killed and others come, no window of any length sees more than
// burst + rate*(t + E), nor more than burst + rate*t and what the processes can hold.
func TestLeasesHoldTheirBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, burst, processes = 400, 200, 8
		store := newFar()
		var mu sync.Mutex
		var at []time.Duration
		began := time.Now()
		var wg sync.WaitGroup
		for p := range processes {
			wg.Go(func() {
				for began.Add(10 * time.Second).After(time.Now()) {
					l := mustNew(t, "x", PerSecond(rate).Burst(burst), *leased(&Options{Store: store}))
					for range 500 + 40*p { // then it is killed with what it holds
						d, err := l.Take(t.Context(), "k", 1)
						if err != nil {
							t.Error(err)
							return
						}
						if d.Allowed {
							mu.Lock()
							at = append(at, time.Since(began))
							mu.Unlock()
						}
						time.Sleep(3*time.Millisecond + time.Duration(p)*100*time.Microsecond)
					}
				}
			})
		}
		wg.Wait()
		for i := range at {
			for j := i; j < len(at); j++ {
				span := at[j] - at[i]
				if n, most := j-i+1, burst+int((span+life)*rate/time.Second); n > most {
					t.Fatalf("%d permits in %v: want at most %d", n, span, most)
				}
			}
		}
		took := at[len(at)-1]
		if n, least := len(at), burst+int(took*rate/time.Second)*9/10; n < least {
			t.Errorf("%d permits used in %v, want at least %d", n, took, least)
		}
		if trips := store.asked.Load(); trips > int64(len(at)) {
			t.Errorf("%d trips for %d permits: a fleet at its limit asks for each", trips, len(at))
		}
	})
}

// A lease ends its life after it was asked for, not after it was answered.
func TestALeaseLivesFromBeforeItWasAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFar()
		l := mustNew(t, "x", Per(1000, time.Hour), *leased(&Options{Store: store, Timeout: time.Minute}))
		store.slow.Store(int64(100 * time.Millisecond))
		take := func() {
			if d, err := l.Take(t.Context(), "k", 1); err != nil || !d.Allowed {
				t.Fatalf("got %+v, %v", d, err)
			}
		}
		take()
		take() // needs two
		asked := store.asked.Load()
		take()
		time.Sleep(life - 200*time.Millisecond)
		for store.asked.Load() == asked { // until the lease has been used up
			take()
		}
		began := time.Now().Add(-100 * time.Millisecond) // of the new lease
		asked = store.asked.Load()
		time.Sleep(time.Until(began.Add(life - 1)))
		take()
		if store.asked.Load() != asked {
			t.Fatal("the lease has ended early")
		}
		time.Sleep(time.Nanosecond)
		take()
		if store.asked.Load() != asked+1 {
			t.Error("a lease outlived its time")
		}
	})
}

// Many who ask at once are one question, and when the store is gone they wait for it together.
func TestLeasesAreAskedForTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFar()
		l := mustNew(t, "x", Per(4000, time.Hour), *leased(&Options{Store: store, Processes: 4}))
		crowd := func() (stored, local int64) {
			var wg sync.WaitGroup
			var a, b atomic.Int64
			for range 200 {
				wg.Go(func() {
					switch d, err := l.Take(t.Context(), "k", 1); {
					case err != nil || !d.Allowed:
						t.Errorf("got %+v, %v", d, err)
					case d.Limit == 4000:
						a.Add(1)
					default:
						b.Add(1)
					}
				})
			}
			wg.Wait()
			return a.Load(), b.Load()
		}
		store.slow.Store(int64(10 * time.Millisecond))
		if stored, _ := crowd(); stored != 200 || store.asked.Load() > 4 {
			t.Errorf("%d of 200 were granted by the store, in %d questions", stored, store.asked.Load())
		}
		time.Sleep(2 * life)
		crowd()
		time.Sleep(life)
		store.frozen.Store(true)
		began := time.Now()
		if _, local := crowd(); local != 200 || time.Since(began) > 2*defaultTimeout {
			t.Errorf("%d of 200 decided locally in %v", local, time.Since(began))
		}
		store.frozen.Store(false)
		// A caller who leaves fails nobody else.
		gone, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := l.Take(gone, "k", 1); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		if stored, local := crowd(); stored != 200 {
			t.Errorf("%d decided by the store, %d locally", stored, local)
		}
		wg.Wait()
	})
}

func TestLeasedPermitsAreReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFar()
		l := mustNew(t, "x", Per(100, time.Hour), *leased(&Options{Store: store}))
		var last Decision
		for range 10 {
			last, _ = l.Take(t.Context(), "k", 1)
		}
		if last.from != fromLease {
			t.Fatalf("%+v is not of a lease", last)
		}
		left := l.remote.leases
		count := func() (n int) {
			for i := range left.shards {
				for _, le := range left.shards[i].keys {
					n += le.left
				}
			}
			return n
		}
		before := count()
		if err := l.Return(t.Context(), "k", last); err != nil || count() != before+1 {
			t.Errorf("%v; %d left after %d", err, count(), before)
		}
		time.Sleep(life)
		l.Return(t.Context(), "k", last) // too late
		if count() != before+1 {
			t.Errorf("%d left after %d", count(), before)
		}
	})
}

// Keys that are not needed any more make room; beyond the bound keys are asked for one by one.
func TestLeasesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := mustNew(t, "x", Per(4000, time.Hour), *leased(&Options{Store: newFar()}))
		flood := func() (held int) {
			for i := range 80_000 {
				hash := uint64(i) * golden
				if _, _, err := l.remote.leases.take(t.Context(), hash, Ask{Name: "x", Key: "k", Cost: 1, Rules: l.limit.rules}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range l.remote.leases.shards {
				held += len(l.remote.leases.shards[i].keys)
			}
			return held
		}
		if held := flood(); held != leaseShards*leaseKeys {
			t.Errorf("%d keys held", held)
		}
		time.Sleep(time.Minute)
		for i := range 20_000 {
			l.remote.leases.shards[0].find(uint64(i)<<8|1, time.Since(l.remote.start), life)
		}
		if n := len(l.remote.leases.shards[0].keys); n > leaseKeys {
			t.Errorf("%d keys held", n)
		}
	})
}
