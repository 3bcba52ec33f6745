package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fairlead/fairlead/cache"
)

// reader is as much of a cache as the interval check needs.
type reader interface {
	Get(context.Context, int) (int, error)
	Invalidate(context.Context, ...int) error
}

type loader = func(context.Context, int) (int, error)

// checkIntervals has readers and writers at a few keys of caches that share an origin, in random order. Of what a Get returns
// it demands the interval: at least the greatest version whose Invalidate had returned, in the same cache, before the Get
// began, and no version that was not written when it returned. It returns the first violation.
func checkIntervals(ctx context.Context, keys, steps int, open func(loader) []reader) (violation error) {
	origin := make([]atomic.Int64, keys)
	pause := func() {
		for range rand.IntN(3) {
			runtime.Gosched()
		}
	}
	nodes := open(func(_ context.Context, key int) (int, error) {
		pause()
		v := int(origin[key].Load())
		pause()
		return v, nil
	})
	// sure is, a node and key, the greatest version that nobody may miss there any more.
	sure := make([][]atomic.Int64, len(nodes))
	for i := range sure {
		sure[i] = make([]atomic.Int64, keys)
	}
	writing := make([]sync.Mutex, keys)
	var once sync.Once
	var failed atomic.Bool
	fail := func(format string, args ...any) {
		once.Do(func() { violation = fmt.Errorf(format, args...) })
		failed.Store(true)
	}
	var wg sync.WaitGroup
	for i, c := range nodes {
		for range 3 {
			wg.Go(func() {
				for step := 0; step < steps && !failed.Load(); step++ {
					key := rand.IntN(keys)
					if rand.IntN(4) > 0 {
						least := sure[i][key].Load()
						got, err := c.Get(ctx, key)
						if most := origin[key].Load(); err != nil || int64(got) < least || int64(got) > most {
							fail("node %d, key %d: got %d, %v; want %d to %d", i, key, got, err, least, most)
						}
						continue
					}
					writing[key].Lock() // versions of a key are invalidated in their order
					version := origin[key].Add(1)
					if err := c.Invalidate(ctx, key); err != nil {
						fail("node %d, key %d: Invalidate: %v", i, key, err)
					}
					sure[i][key].Store(version)
					writing[key].Unlock()
				}
			})
		}
	}
	wg.Wait()
	return violation
}

func TestIntervalsLocal(t *testing.T) {
	for range 40 {
		err := checkIntervals(t.Context(), 3, 50, func(load loader) []reader {
			return []reader{open(t, load, cache.Options[int, int]{MaxEntries: 100})}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestIntervalsShared(t *testing.T) {
	for range 20 {
		store := newFakeStore()
		err := checkIntervals(t.Context(), 3, 40, func(load loader) (nodes []reader) {
			for range 3 {
				nodes = append(nodes, open(t, load, cache.Options[int, int]{Remote: store.node(), RemoteTimeout: backstop}))
			}
			return nodes
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// faulty is a cache as they are written in an afternoon, with one of the faults that the check is there to find.
type faulty struct {
	load  loader
	fault string

	mu     sync.Mutex
	values map[int]int
	gen    map[int]int
	going  map[int]*goingOn
	n      int
}

type goingOn struct {
	done  chan struct{}
	value int
}

func (f *faulty) Get(ctx context.Context, key int) (int, error) {
	f.mu.Lock()
	if v, ok := f.values[key]; ok {
		f.mu.Unlock()
		return v, nil
	}
	if g := f.going[key]; g != nil {
		f.mu.Unlock()
		<-g.done
		return g.value, nil
	}
	g := &goingOn{done: make(chan struct{})}
	f.going[key] = g
	gen := f.gen[key]
	f.mu.Unlock()
	g.value, _ = f.load(ctx, key)
	f.mu.Lock()
	if f.gen[key] == gen || f.fault == "a fill after an invalidation" {
		f.values[key] = g.value
	}
	if f.going[key] == g {
		delete(f.going, key)
	}
	f.mu.Unlock()
	close(g.done)
	return g.value, nil
}

func (f *faulty) Invalidate(_ context.Context, keys ...int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, key := range keys {
		if f.n++; f.n%20 == 0 && f.fault == "a lost invalidation" {
			continue
		}
		f.gen[key]++
		delete(f.values, key)
		if f.fault != "a flight joined too late" {
			delete(f.going, key)
		}
	}
	return nil
}

// The check finds each fault, and none where there is none.
func TestIntervalCheckFindsFaults(t *testing.T) {
	for _, fault := range []string{"", "a lost invalidation", "a fill after an invalidation", "a flight joined too late"} {
		find := func() error {
			return checkIntervals(t.Context(), 3, 200, func(load loader) []reader {
				return []reader{&faulty{load: load, fault: fault, values: map[int]int{}, gen: map[int]int{}, going: map[int]*goingOn{}}}
			})
		}
		if fault == "" {
			for range 50 {
				if err := find(); err != nil {
					t.Fatalf("no fault, and the check finds %v", err)
				}
			}
			continue
		}
		eventually(t, "the check finds "+fault, func() bool { return find() != nil })
	}
}
