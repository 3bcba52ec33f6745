package consistency

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// cached are the settings for workers with a cache on one Redis.
func cached(t testing.TB) settings {
	t.Helper()
	redis, err := redises.Get()
	if err != nil {
		t.Fatal(err)
	}
	s := table(t, postgres(t), workers)
	s.Redis = redis.URL()
	return s
}

// Whoever has written and invalidated reads it through another process's cache, which holds older values, over replicas that
// are behind.
func TestCachedReadsInAnotherProcess(t *testing.T) { cachedReadsInAnotherProcess(t, 160) }

func cachedReadsInAnotherProcess(t *testing.T, n int) {
	pg := postgres(t)
	s := cached(t)
	writer, reader := startHere(t, s), startProcess(t, s)
	for _, l := range lags {
		t.Run(names(l), func(t *testing.T) {
			lagging(t, pg, l)
			got := pairs(t, writer, reader, n, workers, "change", "get", false)
			if got.stale.Load() != 0 {
				t.Errorf("%d of %d reads are stale", got.stale.Load(), got.total.Load())
			}
			t.Logf("soak: through the cache, replicas at %s: %d pairs, %d stale", names(l), got.total.Load(), got.stale.Load())
		})
	}
}

// Readers without tokens fill the cache of the other process all the time, from replicas that are behind. After an
// invalidation no old value comes back: what was filled in the meantime was refused, or read from a server that had the write.
func TestNoStaleRefill(t *testing.T) { noStaleRefill(t, 1000) }

func noStaleRefill(t *testing.T, rounds int) {
	pg := postgres(t)
	s := cached(t)
	writer, reader := startHere(t, s), startProcess(t, s)
	lagging(t, pg, []lag{0, 200e6})
	const keys = 4
	var gets, back, stuck atomic.Int64
	var floor [keys]atomic.Int64 // what the reader has shown
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for k := range keys {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				shown := floor[k].Load()
				got := reader.do(t.Context(), ask{Op: "get", Key: k, Free: true})
				if got.Err != "" {
					t.Errorf("get: %s", got.Err)
					return
				}
				gets.Add(1)
				if got.Version < shown {
					back.Add(1)
				}
			}
		})
		writers.Go(func() {
			for range rounds / keys {
				w := writer.do(t.Context(), ask{Op: "change", Key: k})
				if w.Err != "" {
					t.Errorf("change: %s", w.Err)
					return
				}
				// The message is on its way; a value that was filled in afterwards would stay for an hour.
				for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
					got := reader.do(t.Context(), ask{Op: "get", Key: k, Free: true})
					if got.Version >= w.Version {
						floor[k].Store(w.Version)
						break
					}
					if got.Err != "" || time.Now().After(end) {
						stuck.Add(1)
						t.Errorf("the reader still has version %d a minute after %d was written, %s", got.Version, w.Version, got.Err)
						return
					}
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	if back.Load() != 0 {
		t.Errorf("%d of %d reads went back behind an invalidation that they had seen", back.Load(), gets.Load())
	}
	t.Logf("soak: %d invalidations under %d reads without tokens: %d stale values came back", rounds, gets.Load(), back.Load()+stuck.Load())
}
