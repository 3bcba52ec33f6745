package dialgate

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errRefused = errors.New("refused")

// However many dial, no more than burst + rate × elapsed pass, urgent ones included, and no more than so many at once.
func TestNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{Concurrency: 4, Burst: 10, Rate: 20, MaxBackoff: time.Second}
		g := New(o)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var mu sync.Mutex
		var passed []time.Time
		now, most := 0, 0
		var wg sync.WaitGroup
		for i := range 50 {
			ctx := ctx
			if i%10 == 0 {
				ctx = Urgent(ctx)
			}
			wg.Go(func() {
				for ctx.Err() == nil {
					_, _ = g.Dial(ctx, func() (net.Conn, error) {
						mu.Lock()
						passed = append(passed, time.Now())
						now++
						if ctx.Value(urgentKey{}) == nil {
							most = max(most, now)
						}
						mu.Unlock()
						time.Sleep(5 * time.Millisecond)
						mu.Lock()
						now--
						mu.Unlock()
						return nil, nil
					})
				}
			})
		}
		wg.Wait()
		for i := range passed {
			for j := i; j < len(passed); j++ {
				if n, d := j-i+1, passed[j].Sub(passed[i]); float64(n) > float64(o.Burst)+o.Rate*d.Seconds()+0.001 {
					t.Fatalf("%d dials in %v", n, d)
				}
			}
		}
		if n := len(passed); n < 200 || n > 210 || uint64(n) != g.Stats().Dials {
			t.Errorf("%d dials in 10 s, %+v", n, g.Stats())
		}
		if most > o.Concurrency+5 {
			t.Errorf("%d dials at once", most)
		}
		if g.Stats().Held == 0 {
			t.Error("nobody is said to have waited")
		}
	})
}

// Pauses between dials that fail grow to the longest, differ from each other, and end with one that succeeds. Urgent dials
// do not wait them out.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Options{Concurrency: 4, Burst: 1000, Rate: 1000, MaxBackoff: 500 * time.Millisecond})
		fail := func(ctx context.Context) time.Duration {
			began := time.Now()
			if _, err := g.Dial(ctx, func() (net.Conn, error) { return nil, errRefused }); !errors.Is(err, errRefused) {
				t.Fatal(err)
			}
			return time.Since(began)
		}
		if d := fail(t.Context()); d != 0 {
			t.Errorf("the first waited %v", d)
		}
		var waits []time.Duration
		different := make(map[time.Duration]bool)
		for range 20 {
			d := fail(t.Context())
			waits = append(waits, d)
			different[d] = true
		}
		if waits[0] < 5*time.Millisecond || waits[0] > 10*time.Millisecond {
			t.Errorf("the first pause is %v", waits[0])
		}
		for i, d := range waits[10:] {
			if d < 250*time.Millisecond || d > 500*time.Millisecond {
				t.Errorf("pause %d is %v", 10+i, d)
			}
		}
		if len(different) < 15 {
			t.Errorf("the pauses are not random: %v", waits)
		}
		if d := fail(Urgent(t.Context())); d != 0 {
			t.Errorf("an urgent one waited %v", d)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, err := g.Dial(short, func() (net.Conn, error) { t.Error("dialled in the pause"); return nil, nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if _, err := g.Dial(Urgent(t.Context()), func() (net.Conn, error) { return nil, nil }); err != nil {
			t.Fatal(err)
		}
		if d := fail(t.Context()); d != 0 {
			t.Errorf("after one that succeeded, %v", d)
		}
		if st := g.Stats(); st.Failed != 23 || st.Dials != 24 {
			t.Errorf("%+v", st)
		}
	})
}

// A dial that its own caller gave up says nothing of the server.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Options{Concurrency: 1, Burst: 10, Rate: 10, MaxBackoff: time.Second})
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, _ = g.Dial(ctx, func() (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() })
			cancel()
		}
		began := time.Now()
		_, _ = g.Dial(t.Context(), func() (net.Conn, error) { return nil, nil })
		if d := time.Since(began); d != 0 {
			t.Errorf("waited %v", d)
		}
	})
}
