package ratelimit

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

func mustNew(t testing.TB, name string, limit Limit, opts Options) *Limiter {
	t.Helper()
	l, err := New(name, limit, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestTakeReportsImpossibleCosts(t *testing.T) {
	l := mustNew(t, "x", PerSecond(50).Burst(100).And(Per(30, time.Minute)), Options{})
	for _, cost := range []int{0, -1, 31, 100, 101} {
		d, err := l.Take(t.Context(), "k", cost)
		if err == nil || d.Allowed {
			t.Errorf("cost %d: got %+v, %v; want an error", cost, d, err)
		}
	}
	_, err := l.Take(t.Context(), "k", 31)
	if want := "ratelimit: x: cost 31: must be 1 to 30, the most that the limit grants at once"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if d, err := l.Take(t.Context(), "k", 30); err != nil || !d.Allowed {
		t.Errorf("the whole burst: got %+v, %v", d, err)
	}
}

func TestTakeAfterCloseAndWithAnEndedContext(t *testing.T) {
	l := mustNew(t, "x", PerSecond(1), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := l.Take(ctx, "k", 1); !errors.Is(err, context.Canceled) || d.Allowed {
		t.Errorf("got %+v, %v; want context.Canceled", d, err)
	}
	if d, err := l.Take(t.Context(), "k", 1); err != nil || !d.Allowed {
		t.Errorf("the ended context cost a permit: got %+v, %v", d, err)
	}
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if d, err := l.Take(t.Context(), "k", 1); !errors.Is(err, ErrClosed) || d.Allowed {
		t.Errorf("got %+v, %v; want ErrClosed", d, err)
	}
	if err := l.Wait(t.Context(), "k"); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// TestLimitForChangesWhileRunning: a plan's limit, a change of it, the limiter's own for the zero Limit, and a bad one.
func TestLimitForChangesWhileRunning(t *testing.T) {
	var mu sync.Mutex
	plans := map[string]Limit{"pro": Per(10, time.Hour), "bad": PerSecond(0)}
	l := mustNew(t, "x", Per(2, time.Hour), Options{LimitFor: func(_ context.Context, key string) Limit {
		mu.Lock()
		defer mu.Unlock()
		return plans[key]
	}})
	take := func(key string) Decision {
		t.Helper()
		d, err := l.Take(t.Context(), key, 1)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := take("free"); d.Limit != 2 {
		t.Errorf("no plan: got %+v, want the limiter's own", d)
	}
	if d := take("pro"); d.Limit != 10 || d.Remaining != 9 {
		t.Errorf("pro: got %+v", d)
	}
	mu.Lock()
	plans["pro"] = Per(20, time.Hour)
	mu.Unlock()
	if d := take("pro"); d.Limit != 20 || d.Remaining != 18 {
		t.Errorf("pro raised: got %+v, want what is used kept", d)
	}
	_, err := l.Take(t.Context(), "bad", 1)
	if want := "ratelimit: x: LimitFor: limit PerSecond(0): n must be 1 to 1000000000"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestLimitersOfOneStore(t *testing.T) {
	store := NewMemory(0)
	a := mustNew(t, "a", Per(1, time.Hour), Options{Store: store})
	same := mustNew(t, "a", Per(1, time.Hour), Options{Store: store})
	b := mustNew(t, "b", Per(1, time.Hour), Options{Store: store})
	for i, c := range []struct {
		l    *Limiter
		want bool
	}{{a, true}, {b, true}, {same, false}, {b, false}} {
		if d, err := c.l.Take(t.Context(), "k", 1); err != nil || d.Allowed != c.want {
			t.Errorf("take %d: got %+v, %v; want allowed %v", i, d, err, c.want)
		}
	}
}

func TestSamplesComeFromStats(t *testing.T) {
	l := mustNew(t, "x", Per(2, time.Hour), Options{})
	for range 5 {
		_, _ = l.Take(t.Context(), "k", 1)
	}
	got := map[string]float64{}
	for s := range l.Samples() {
		key := s.Name
		for _, a := range s.Attrs {
			key += " " + a.Key + "=" + a.Value
		}
		got[key] = s.Value
		if s.Kind == telemetry.Histogram {
			t.Errorf("%s is a histogram", s.Name)
		}
	}
	for key, want := range map[string]float64{
		"fairlead.ratelimit.decisions limiter=x outcome=allowed": 2,
		"fairlead.ratelimit.decisions limiter=x outcome=refused": 3,
		"fairlead.ratelimit.decisions limiter=x outcome=denied":  0,
		"fairlead.ratelimit.keys limiter=x":                      1,
		"fairlead.ratelimit.store_down limiter=x":                0,
	} {
		if v, ok := got[key]; !ok || v != want {
			t.Errorf("%s = %v, %v; want %v", key, v, ok, want)
		}
	}
}

func TestWaitKeepsOrderAndRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := New("x", PerSecond(10).Burst(2), Options{})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var mu sync.Mutex
		var order []int
		var at []time.Duration
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if err := l.Wait(t.Context(), "k"); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
				at = append(at, time.Since(start))
			})
			synctest.Wait() // so that they come in this order
		}
		if s := l.Stats(); s.Waiting != 18 {
			t.Errorf("%d wait, want 18: two had the burst", s.Waiting)
		}
		wg.Wait()
		for i, n := range order {
			if n != i {
				t.Fatalf("served in the order %v", order)
			}
			// A late one does not make the next late: time drains the bucket meanwhile.
			if due := max(0, time.Duration(i-1)*100*time.Millisecond); at[i] < due || at[i] > due+13*time.Millisecond {
				t.Errorf("waiter %d was served at %v, want at %v or an eighth of 100ms later", i, at[i], due)
			}
		}
		if s := l.Stats(); s.Waiting != 0 || len(l.lines.m) != 0 {
			t.Errorf("%d wait, %d lines: want none", s.Waiting, len(l.lines.m))
		}
	})
}

func TestWaitRefusesAtOnceWhatCannotBeInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := New("x", Per(1, time.Second), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Wait(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		err = l.Wait(ctx, "k")
		if exceeded, ok := errors.AsType[*Exceeded](err); !ok || exceeded.Name != "x" || exceeded.RetryAfter != time.Second {
			t.Errorf("got %v, want *Exceeded after 1s", err)
		}
		if time.Since(start) != 0 {
			t.Errorf("waited %v for a permit that cannot be in time", time.Since(start))
		}

		// Those who wait already take theirs first: the fourth cannot have one before 3 s.
		for range 3 {
			go l.Wait(t.Context(), "k")
		}
		synctest.Wait()
		ctx, cancel = context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		if err := l.Wait(ctx, "k"); !errors.As(err, new(*Exceeded)) || time.Since(start) != 0 {
			t.Errorf("behind three: got %v after %v, want *Exceeded at once", err, time.Since(start))
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := l.Wait(ctx, "k"); err != nil {
			t.Errorf("with time enough: %v", err)
		}
		if err := l.Wait(t.Context(), "another"); err != nil {
			t.Error(err)
		}
	})
}

func TestWaitEndsWithItsContextAndWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := New("x", Per(1, time.Hour), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Wait(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error, 4)
		go func() { errs <- l.Wait(ctx, "k") }() // sleeps
		synctest.Wait()
		go func() { errs <- l.Wait(ctx, "k") }() // stands in line
		synctest.Wait()
		cancel()
		for range 2 {
			if err := <-errs; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want context.Canceled", err)
			}
		}
		go func() { errs <- l.Wait(t.Context(), "k") }()
		synctest.Wait()
		go func() { errs <- l.Wait(t.Context(), "k") }()
		synctest.Wait()
		l.Close()
		for range 2 {
			if err := <-errs; !errors.Is(err, ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		}
	})
}
