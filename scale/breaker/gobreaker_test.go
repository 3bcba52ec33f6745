package breaker

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sony/gobreaker/v2"
)

// What gobreaker 2.4.0 alone does not do, each beside the breaker that does. If a later gobreaker closes a gap, its half
// of the test says so.

type bare = gobreaker.CircuitBreaker[int]

func doBare(gb *bare, n int, took time.Duration, err error) (last error) {
	for range n {
		_, last = gb.Execute(func() (int, error) { time.Sleep(took); return 0, err })
	}
	return last
}

func tripped() *bare {
	gb := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Timeout: time.Second, ReadyToTrip: func(gobreaker.Counts) bool { return true }})
	doBare(gb, 1, 0, errDown)
	return gb
}

func TestGapSlowSuccesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gb := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{ReadyToTrip: func(gobreaker.Counts) bool { return true }})
		doBare(gb, 100, 5*time.Second, nil)
		if gb.State() != gobreaker.StateClosed {
			t.Error("gobreaker trips on successes now")
		}
		b := newTest(t, Options{SlowCall: time.Second, MinCalls: 2})
		do(b, 2, 5*time.Second, nil)
		wantState(t, b, Open)
		if e := wantOpenError(t, do(b, 1, 0, nil)); e.Slow != 2 || e.Failures != 0 {
			t.Errorf("%+v", e)
		}
	})
}

func TestGapFailuresLongerThanTheWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, bucket := range []time.Duration{0, time.Second} {
			gb := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: bucket,
				ReadyToTrip: func(c gobreaker.Counts) bool { return c.TotalFailures >= 3 }})
			doBare(gb, 20, 12*time.Second, errDown)
			if n := gb.Counts().TotalFailures; n != 0 {
				t.Errorf("gobreaker counts %d of them now", n)
			}
		}
		// As many at once as it takes, each longer than the window.
		b := newTest(t, Options{SlowRate: -1})
		for range 20 {
			go do(b, 1, 12*time.Second, errDown)
		}
		time.Sleep(12 * time.Second)
		synctest.Wait()
		wantState(t, b, Open)
		// And one after the other.
		b = newTest(t, Options{SlowRate: -1, MinCalls: 1})
		do(b, 1, 12*time.Second, errDown)
		wantState(t, b, Open)
	})
}

func TestGapProbeThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		gb := tripped()
		time.Sleep(2 * time.Second)
		go gb.Execute(func() (int, error) { <-release; return 0, nil })
		time.Sleep(time.Hour)
		if err := doBare(gb, 1, 0, nil); !errors.Is(err, gobreaker.ErrTooManyRequests) {
			t.Errorf("gobreaker: %v", err)
		}

		b := newTest(t, Options{MinCalls: 1, Probes: 1})
		do(b, 1, 0, errDown)
		time.Sleep(5 * time.Second)
		hung := make(chan error)
		go func() {
			_, err := Do(ctx, b, func(context.Context) (int, error) { <-release; return 0, nil })
			hung <- err
		}()
		time.Sleep(10*time.Second - 1)
		wantState(t, b, HalfOpen)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		wantState(t, b, Open)
		time.Sleep(5 * time.Second)
		if err := do(b, 1, 0, nil); err != nil {
			t.Error(err)
		}
		wantState(t, b, Closed)
		// The one that hung is not cut short, and does not count again when it ends.
		close(release)
		if err := <-hung; err != nil {
			t.Error(err)
		}
		if s := b.Stats(); s.Failures != 2 || s.Successes != 1 || s.WindowCalls != 0 || s.Trips != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestGapProbeThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inGoroutine := func(f func()) {
			done := make(chan struct{})
			go func() { defer close(done); f() }()
			<-done
		}
		gb := tripped()
		time.Sleep(2 * time.Second)
		inGoroutine(func() { gb.Execute(func() (int, error) { runtime.Goexit(); return 0, nil }) })
		time.Sleep(24 * time.Hour)
		if err := doBare(gb, 1, 0, nil); !errors.Is(err, gobreaker.ErrTooManyRequests) {
			t.Errorf("gobreaker: %v", err)
		}

		b := newTest(t, Options{MinCalls: 1, Probes: 1})
		do(b, 1, 0, errDown)
		time.Sleep(5 * time.Second)
		inGoroutine(func() {
			Do(ctx, b, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
		})
		wantState(t, b, Open) // at once
		time.Sleep(5 * time.Second)
		if err := do(b, 1, 0, nil); err != nil {
			t.Error(err)
		}
		wantState(t, b, Closed)
	})
}

// In gobreaker, Counts or State inside OnStateChange deadlock: it holds its lock (its source says so; a goroutine that
// waits for ever for a lock cannot be part of a test).
func TestGapBreakerInsideItsListener(t *testing.T) {
	var b *Breaker
	var seen []State
	b = newTest(t, Options{MinCalls: 1, OnStateChange: func(string, State, State) {
		seen = append(seen, b.State(), b.Stats().State)
		wantOpenError(t, do(b, 1, 0, nil))
	}})
	do(b, 1, 0, errDown)
	if len(seen) != 2 || seen[0] != Open || seen[1] != Open {
		t.Errorf("%v", seen)
	}
}

// store is the shared one of gobreaker's distributed breaker.
type store struct {
	sync.Mutex
	data map[string][]byte
}

func (s *store) Lock(string) error                      { s.Mutex.Lock(); return nil }
func (s *store) Unlock(string) error                    { s.Mutex.Unlock(); return nil }
func (s *store) GetData(name string) ([]byte, error)    { return s.data[name], nil }
func (s *store) SetData(name string, data []byte) error { s.data[name] = data; return nil }

// gobreaker's distributed breaker holds the lock of its store during the call, so that the calls of a whole fleet wait for each
// other. A Breaker shares nothing and holds nothing.
func TestGapCallsOneAfterTheOther(t *testing.T) {
	s := &store{data: map[string][]byte{}}
	dcb, err := gobreaker.NewDistributedCircuitBreaker[int](s, gobreaker.Settings{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	held := false
	if _, err := dcb.Execute(func() (int, error) {
		if held = !s.TryLock(); !held {
			s.Mutex.Unlock()
		}
		return 0, nil
	}); err != nil {
		t.Fatal(err)
	}
	if !held {
		t.Error("gobreaker's distributed breaker lets go of its lock now")
	}

	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{})
		began := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { do(b, 1, time.Second, nil) })
		}
		wg.Wait()
		if took := time.Since(began); took != time.Second {
			t.Errorf("100 calls of a second took %v", took)
		}
	})
}
