package ratelimit

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// far is a store that is somewhere else: it counts who asks, and may be frozen, slow or failing. Redis itself is in package
// redislimit's tests.
type far struct {
	*Memory
	asked  atomic.Int64
	frozen atomic.Bool
	fails  atomic.Bool
	panics atomic.Bool
	slow   atomic.Int64 // nanoseconds
	most   atomic.Int64 // the most that was asked for at once
	warn   string
}

var errFar = errors.New("far: no")

func newFar() *far { return &far{Memory: NewMemory(0)} }

func (f *far) Take(ctx context.Context, ask Ask) (Decision, error) {
	f.asked.Add(1)
	for old := f.most.Load(); int64(ask.most()) > old && !f.most.CompareAndSwap(old, int64(ask.most())); old = f.most.Load() {
	}
	if d := f.slow.Load(); d > 0 {
		select {
		case <-time.After(time.Duration(d)):
		case <-ctx.Done():
			return Decision{}, ctx.Err()
		}
	}
	switch {
	case f.panics.Load():
		panic("far: panic")
	case f.fails.Load():
		return Decision{Allowed: true}, errFar // who reads the decision beside an error must not be led on
	case f.frozen.Load():
		<-ctx.Done()
		return Decision{}, ctx.Err()
	}
	return f.Memory.Take(ctx, ask)
}

func (f *far) Return(ctx context.Context, ask Ask) error {
	f.asked.Add(1)
	switch {
	case f.panics.Load():
		panic("far: panic")
	case f.fails.Load():
		return errFar
	case f.frozen.Load():
		<-ctx.Done()
		return ctx.Err()
	}
	return f.Memory.Return(ctx, ask)
}

func (f *far) Warning(context.Context) string { return f.warn }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestARefusalIsRememberedForItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFar()
		l := mustNew(t, "x", Per(5, 2*time.Second), Options{Store: store, Logger: quiet()}) // one in 400 ms
		take := func(key string, cost int) Decision {
			d, err := l.Take(t.Context(), key, cost)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		take("k", 5)
		first := take("k", 2)
		if first.Allowed || first.RetryAfter != 800*time.Millisecond || first.ResetAfter != 2*time.Second {
			t.Fatalf("got %+v", first)
		}
		for range 1000 {
			take("k", 2)
			take("k", 5)
		}
		if n := store.asked.Load(); n != 2 {
			t.Errorf("the store was asked %d times: want 2", n)
		}
		time.Sleep(300 * time.Millisecond)
		if d := take("k", 3); d.Allowed || d.RetryAfter != 500*time.Millisecond || d.ResetAfter != 1700*time.Millisecond || store.asked.Load() != 2 {
			t.Errorf("300 ms later from memory: got %+v, asked %d", d, store.asked.Load())
		}
		if take("k", 1); store.asked.Load() != 3 {
			t.Error("a smaller cost than was refused did not ask the store")
		}
		if take("other", 1); store.asked.Load() != 4 {
			t.Error("another key did not ask the store")
		}
		time.Sleep(500 * time.Millisecond)
		if d := take("k", 2); !d.Allowed {
			t.Errorf("after RetryAfter: got %+v", d)
		}
		if s := l.Stats(); s.Remembered != 2001 || s.Refused != 2003 || s.Allowed != 3 {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestARefusalIsRememberedForASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFar()
		var limit atomic.Pointer[Limit]
		small, large := Per(1, time.Hour), Per(100, time.Hour)
		limit.Store(&small)
		l := mustNew(t, "x", small, Options{Store: store, Logger: quiet(), LimitFor: func(context.Context, string) Limit { return *limit.Load() }})
		for range 100 {
			_, _ = l.Take(t.Context(), "k", 1)
		}
		time.Sleep(time.Second - time.Microsecond)
		if d, _ := l.Take(t.Context(), "k", 1); store.asked.Load() != 2 || d.RetryAfter > time.Hour-time.Second+time.Microsecond {
			t.Errorf("within the second: asked %d, got %+v", store.asked.Load(), d)
		}
		time.Sleep(time.Microsecond)
		if _, _ = l.Take(t.Context(), "k", 1); store.asked.Load() != 3 {
			t.Errorf("after a second: asked %d times, want 3", store.asked.Load())
		}
		limit.Store(&large)
		if d, _ := l.Take(t.Context(), "k", 1); !d.Allowed {
			t.Errorf("the limit was raised, and the refusal under the old one remembered: %+v", d)
		}
	})
}

// A store that is silent costs a decision its time budget and no more. (redislimit's fails at once when Redis is known to be gone.)
func TestAFrozenStoreCostsABoundedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFar()
		l := mustNew(t, "x", Per(400, time.Hour), Options{Store: store, Processes: 4, Logger: quiet()})
		if d, err := l.Take(t.Context(), "k", 1); err != nil || d.Limit != 400 {
			t.Fatalf("got %+v, %v", d, err)
		}
		store.frozen.Store(true)
		granted := 0
		for range 1000 {
			start := time.Now()
			d, err := l.Take(t.Context(), "k", 1)
			if err != nil || d.Limit != 100 {
				t.Fatalf("got %+v, %v; want a decision by the share", d, err)
			}
			if took := time.Since(start); took != defaultTimeout {
				t.Fatalf("a decision took %v, want %v", took, defaultTimeout)
			}
			if d.Allowed {
				granted++
			}
		}
		if granted < 100 || granted > 102 { // a quarter of 400 at once, and one in 36 s
			t.Errorf("granted %d: want the share, 100", granted)
		}
		if s := l.Stats(); !s.Down || s.Local != 1000 || s.Failures != 1000 {
			t.Errorf("stats %+v", s)
		}
		store.frozen.Store(false)
		if d, err := l.Take(t.Context(), "other", 1); err != nil || d.Limit != 400 || l.Stats().Down {
			t.Errorf("the store is back: got %+v, %v, down %v", d, err, l.Stats().Down)
		}
	})
}

func TestOneFailureIsForgivenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFar()
		l := mustNew(t, "x", Per(400, time.Hour), Options{Store: store, OnError: Deny, Logger: quiet()})
		store.fails.Store(true)
		if d, err := l.Take(t.Context(), "k", 1); !errors.Is(err, errFar) || d.Allowed || d.RetryAfter <= 0 {
			t.Errorf("got %+v, %v; want a denial that says when to come back", d, err)
		}
		store.fails.Store(false)
		if d, err := l.Take(t.Context(), "k", 1); err != nil || !d.Allowed {
			t.Errorf("got %+v, %v", d, err)
		}
	})
}

// A store that stalls for a moment fails all requests under way, and that is one failure.
func TestFailuresTogetherAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFar()
		l := mustNew(t, "x", Per(400, time.Hour), Options{Store: store, Processes: 4, Logger: quiet()})
		store.frozen.Store(true)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if d, err := l.Take(t.Context(), "k", 1); err != nil || d.Limit != 100 {
					t.Errorf("got %+v, %v; want the share", d, err)
				}
			})
			time.Sleep(100 * time.Microsecond)
		}
		wg.Wait()
		store.frozen.Store(false)
		if d, err := l.Take(t.Context(), "k", 1); err != nil || d.Limit != 400 {
			t.Errorf("the next request: got %+v, %v; want the store's decision", d, err)
		}
		if s := l.Stats(); s.Failures != 100 || s.Down {
			t.Errorf("stats %+v", s)
		}
	})
}

func TestACallerWhoLeavesSaysNothingOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newFar()
		l := mustNew(t, "x", PerSecond(1), Options{Store: store, Logger: quiet()})
		store.frozen.Store(true)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if d, err := l.Take(ctx, "k", 1); !errors.Is(err, context.DeadlineExceeded) || d.Allowed {
			t.Errorf("got %+v, %v; want the caller's own deadline", d, err)
		}
		if s := l.Stats(); s.Failures != 0 || s.Down {
			t.Errorf("stats %+v: want no failure", s)
		}
	})
}

func TestAPanicOfTheStoreIsAFailure(t *testing.T) {
	store := newFar()
	store.panics.Store(true)
	l := mustNew(t, "x", PerSecond(1), Options{Store: store, OnError: Deny, Logger: quiet()})
	if _, err := l.Take(t.Context(), "k", 1); err == nil || !strings.Contains(err.Error(), "far: panic") {
		t.Errorf("got %v", err)
	}
}

func TestAShareNeverRefusesForEver(t *testing.T) {
	store := newFar()
	store.fails.Store(true)
	l := mustNew(t, "x", Per(10, time.Hour), Options{Store: store, Processes: 50, Logger: quiet()})
	d, err := l.Take(t.Context(), "k", 10)
	if err != nil || !d.Allowed || d.Limit != 1 {
		t.Errorf("a cost above the share: got %+v, %v; want it to take the whole share", d, err)
	}
	if d, _ := l.Take(t.Context(), "k", 1); d.Allowed || d.RetryAfter < 4*time.Hour || d.RetryAfter > 5*time.Hour {
		t.Errorf("a fiftieth of ten an hour: got %+v, want a permit in five hours", d)
	}
}

func TestWhatDegradesIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		store := newFar()
		store.warn = "the store forgets"
		l := mustNew(t, "x", PerSecond(1000), Options{Store: store, Logger: slog.New(slog.NewTextHandler(&out, nil))})
		for range 10 {
			_, _ = l.Take(t.Context(), "k", 1)
		}
		store.fails.Store(true)
		for range 1000 {
			_, _ = l.Take(t.Context(), "k", 1)
			time.Sleep(time.Millisecond)
		}
		store.fails.Store(false)
		for range 10 {
			_, _ = l.Take(t.Context(), "k", 1)
		}
		for text, want := range map[string]int{"the store forgets": 1, "the store failed": 1, "answers again": 1} {
			if n := strings.Count(out.String(), text); n != want {
				t.Errorf("%q was logged %d times: want %d\n%s", text, n, want, &out)
			}
		}
	})
}
