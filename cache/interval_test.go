package cache_test

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/fairlead/fairlead/cache"
)

// checkIntervals has readers and writers at a few keys of caches that share an origin, in random order, for a number of
// rounds. Of what a Get returns it demands the interval: at least the greatest version whose Invalidate had returned, in the
// same cache, before the Get began, and no version that was not written when it returned.
func checkIntervals(t *testing.T, rounds, keys, steps int, open func(*testing.T, func(context.Context, int) (int, error)) []*cache.Cache[int, int]) {
	t.Helper()
	for round := range rounds {
		if t.Failed() {
			return
		}
		origin := make([]atomic.Int64, keys)
		load := func(_ context.Context, key int) (int, error) {
			for range rand.IntN(3) {
				runtime.Gosched()
			}
			v := int(origin[key].Load())
			for range rand.IntN(3) {
				runtime.Gosched()
			}
			return v, nil
		}
		nodes := open(t, load)
		// sure is, a node and key, the greatest version that nobody may miss there any more.
		sure := make([][]atomic.Int64, len(nodes))
		for i := range sure {
			sure[i] = make([]atomic.Int64, keys)
		}
		writing := make([]sync.Mutex, keys)
		var wg sync.WaitGroup
		for i, c := range nodes {
			for range 3 {
				wg.Go(func() {
					for range steps {
						key := rand.IntN(keys)
						if rand.IntN(4) > 0 {
							least := sure[i][key].Load()
							got, err := c.Get(t.Context(), key)
							most := origin[key].Load()
							if err != nil || int64(got) < least || int64(got) > most {
								t.Errorf("round %d, node %d, key %d: got %d, %v; want %d to %d", round, i, key, got, err, least, most)
								return
							}
							continue
						}
						writing[key].Lock() // versions of a key are invalidated in their order
						version := origin[key].Add(1)
						if err := c.Invalidate(t.Context(), key); err != nil {
							t.Errorf("Invalidate: %v", err)
						}
						sure[i][key].Store(version)
						writing[key].Unlock()
					}
				})
			}
		}
		wg.Wait()
		for _, c := range nodes {
			s := c.Stats()
			if s.Errors > 0 || s.Gets == 0 {
				t.Errorf("stats: %+v", s)
			}
			c.Close()
		}
	}
}
