package consistency

import (
	"sync"
	"sync/atomic"
	"testing"
)

// lags are the ways that the two replicas are behind in, a run each.
var lags = [][]lag{{0, 0}, {0, 200e6}, {0, 2e9}, {0, paused}, {200e6, 2e9}, {paused, paused}}

// tally is what came out of pairs.
type tally struct{ total, stale, replica, failed atomic.Int64 }

// pairs writes in one process and then reads in another, n times, by workers at once on a key of their own. free reads without
// the write's token.
func pairs(t testing.TB, writer, reader doer, n, workers int, write, read string, free bool) *tally {
	t.Helper()
	var out tally
	var wg sync.WaitGroup
	for k := range workers {
		wg.Go(func() {
			for range n / workers {
				w := writer.do(t.Context(), ask{Op: write, Key: k})
				if w.Err != "" {
					t.Errorf("%s: %s", write, w.Err)
					return
				}
				r := reader.do(t.Context(), ask{Op: read, Key: k, Token: w.Token, Free: free})
				out.total.Add(1)
				switch {
				case r.Err != "":
					out.failed.Add(1)
					t.Errorf("%s: %s", read, r.Err)
					return
				case r.Version < w.Version:
					out.stale.Add(1)
				}
				if r.Replica {
					out.replica.Add(1)
				}
			}
		})
	}
	wg.Wait()
	return &out
}

const workers = 8

// A read in another process sees the write whose token it has, however far behind the replicas are.
func TestReadsInAnotherProcess(t *testing.T) { readsInAnotherProcess(t, 1680) }

func readsInAnotherProcess(t *testing.T, n int) {
	pg := postgres(t)
	s := table(t, pg, workers)
	writer, reader := startHere(t, s), startProcess(t, s)
	for _, l := range lags {
		t.Run(names(l), func(t *testing.T) {
			lagging(t, pg, l)
			got := pairs(t, writer, reader, n, workers, "write", "read", false)
			if got.stale.Load() != 0 {
				t.Errorf("%d of %d reads are stale", got.stale.Load(), got.total.Load())
			}
			t.Logf("soak: replicas at %s: %d pairs, %d stale, %d served by replicas", names(l), got.total.Load(), got.stale.Load(), got.replica.Load())
		})
	}
}

// Without tokens the same pairs are stale, so the test above can fail: with both replicas paused, all of them.
func TestReadsWithoutTokensAreStale(t *testing.T) {
	pg := postgres(t)
	s := table(t, pg, workers)
	writer, reader := startHere(t, s), startProcess(t, s)
	lagging(t, pg, []lag{paused, paused})
	got := pairs(t, writer, reader, 400, workers, "write", "read", true)
	if got.total.Load() != 400 || got.stale.Load() != 400 {
		t.Errorf("%d of %d reads are stale without tokens: the pairs show nothing", got.stale.Load(), got.total.Load())
	}
}
