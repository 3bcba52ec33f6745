package offload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/scale/overload"
)

const errQuota = "a quota allows 1 of 4 CPUs"

// pure is a system on which lanes have plain workers, for tests in virtual time: Workers of Options counts.
func testLane(t *testing.T, o Options) *Lane {
	t.Helper()
	o.Logger = slog.New(slog.DiscardHandler)
	l, err := newLane("test", o, system{nice: func() error { return nil }, limit: func() string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	l.niced = false // no threads in a bubble
	return l
}

// occupy fills the lane's workers until the returned function is called.
func occupy(t *testing.T, l *Lane) (free func()) {
	t.Helper()
	hold := make(chan struct{})
	var wg, running sync.WaitGroup
	for range l.capacity {
		running.Add(1)
		wg.Go(func() {
			_, err := Do(t.Context(), l, func(context.Context) (int, error) {
				running.Done()
				<-hold
				return 0, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	return func() { close(hold); wg.Wait() }
}

func nothing(context.Context) (int, error) { return 0, nil }

func TestOptionsAllFaultsAtOnce(t *testing.T) {
	_, err := New("", Options{Workers: -1, QueueTimeout: -1, RunTimeout: -1, RetryAfter: -1, MaxMemory: -1, Grace: -1})
	for _, want := range []string{"name is empty", "Options.Workers = -1: must be >= 0 (0 means GOMAXPROCS)", "Options.QueueTimeout", "Options.RunTimeout",
		"Options.RetryAfter", "Options.MaxMemory", "Options.Grace"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %s", err, want)
		}
	}
}

func TestDoReturnsWhatTheTaskReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 2})
		defer l.Close()
		failed := errors.New("failed")
		got, err := Do(t.Context(), l, func(context.Context) (string, error) { return "half", failed })
		if got != "half" || err != failed {
			t.Errorf("%q, %v", got, err)
		}
		if s := l.Stats(); s.Ran != 1 || s.Running != 0 || s.Run.Count() != 1 || s.Wait.Count() != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestNoMoreThanWorkersRunAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 3})
		defer l.Close()
		var mu sync.Mutex
		running, most := 0, 0
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := Do(t.Context(), l, func(context.Context) (int, error) {
					mu.Lock()
					running++
					most = max(most, running)
					mu.Unlock()
					time.Sleep(10 * time.Millisecond)
					mu.Lock()
					running--
					mu.Unlock()
					return 0, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most != 3 {
			t.Errorf("%d ran at a time, want 3", most)
		}
	})
}

func TestQueueFullAndQueueTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1, MaxQueue: 2})
		defer l.Close()
		free := occupy(t, l)
		results := make(chan error, 2)
		began := time.Now()
		for range 2 {
			go func() {
				_, err := Do(t.Context(), l, nothing)
				results <- err
			}()
		}
		synctest.Wait()
		if _, err := Do(t.Context(), l, nothing); !errors.Is(err, ErrQueueFull) {
			t.Errorf("a third: %v", err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("it was refused after %v, want at once", waited)
		}
		critical := overload.WithPriority(t.Context(), overload.Critical)
		go func() {
			_, err := Do(critical, l, nothing)
			results <- err
		}()
		if err := <-results; !errors.Is(err, ErrQueueFull) || time.Since(began) != 0 {
			t.Errorf("who made room for a critical task: %v", err)
		}
		for range 2 {
			if err := <-results; !errors.Is(err, ErrQueueTimeout) || time.Since(began) != time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		}
		free()
		if s := l.Stats(); s.RefusedFull != 2 || s.RefusedTimeout != 2 || s.Waiting != 0 || s.Ran != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestNoQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1, MaxQueue: -1})
		defer l.Close()
		defer occupy(t, l)()
		if _, err := Do(overload.WithPriority(t.Context(), overload.Critical), l, nothing); !errors.Is(err, ErrQueueFull) {
			t.Error(err)
		}
	})
}

// The two time-outs are different things: one is the lane's fault, the other the task's.
func TestRunTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1, RunTimeout: 50 * time.Millisecond, QueueTimeout: 10 * time.Millisecond})
		defer l.Close()
		began := time.Now()
		_, err := Do(t.Context(), l, func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrQueueTimeout) || time.Since(began) != 50*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestATaskThatIgnoresItsContextKeepsItsWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1, QueueTimeout: 10 * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		began := time.Now()
		got, err := Do(ctx, l, func(context.Context) (int, error) {
			time.Sleep(time.Second)
			return 1, nil
		})
		if got != 0 || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 20*time.Millisecond {
			t.Errorf("after %v: %d, %v", time.Since(began), got, err)
		}
		if s := l.Stats(); s.Abandoned != 1 || s.Running != 1 {
			t.Errorf("%+v", s)
		}
		if _, err := Do(t.Context(), l, nothing); !errors.Is(err, ErrQueueTimeout) {
			t.Errorf("the worker should be taken: %v", err)
		}
		time.Sleep(time.Second)
		if s := l.Stats(); s.Abandoned != 0 || s.Running != 0 || s.Ignored != 1 || s.Ran != 1 {
			t.Errorf("%+v", s)
		}
		l.Close()
	})
}

func TestATaskThatHeedsItsContextIsNotCountedAsIgnoringIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1})
		defer l.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(time.Millisecond); cancel() }()
		_, err := Do(ctx, l, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		synctest.Wait()
		if s := l.Stats(); s.Ignored != 0 || s.Abandoned != 0 || s.Ran != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestACallerThatLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1})
		defer l.Close()
		free := occupy(t, l)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(time.Millisecond); cancel() }()
		if _, err := Do(ctx, l, nothing); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		free()
		if s := l.Stats(); s.Gone != 1 || s.Waiting != 0 || s.Ran != 1 {
			t.Errorf("%+v", s)
		}
		if _, err := Do(ctx, l, nothing); !errors.Is(err, context.Canceled) {
			t.Errorf("one that had ended before: %v", err)
		}
	})
}

func TestPanicAndGoexitAreErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1})
		defer l.Close()
		failed := errors.New("failed")
		for range 3 {
			var p *PanicError
			_, err := Do(t.Context(), l, func(context.Context) (int, error) { panic(failed) })
			if !errors.As(err, &p) || p.Value != failed || !errors.Is(err, failed) || !strings.Contains(string(p.Stack), "TestPanicAndGoexit") {
				t.Errorf("panic: %v", err)
			}
			_, err = Do(t.Context(), l, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
			if !errors.As(err, &p) || p.Value != nil {
				t.Errorf("Goexit: %v", err)
			}
		}
		if got, err := Do(t.Context(), l, func(context.Context) (int, error) { return 1, nil }); got != 1 || err != nil {
			t.Errorf("afterwards: %d, %v", got, err)
		}
		if s := l.Stats(); s.Panics != 6 || s.Ran != 7 {
			t.Errorf("%+v", s)
		}
	})
}

// Goexit ends a worker while others wait for one: somebody must take its place.
func TestGoexitWhileOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 2})
		defer l.Close()
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				_, err := Do(t.Context(), l, func(context.Context) (int, error) {
					time.Sleep(time.Millisecond)
					if i%2 == 0 {
						runtime.Goexit()
					}
					return 0, nil
				})
				if _, ok := errors.AsType[*PanicError](err); ok != (i%2 == 0) {
					t.Errorf("%d: %v", i, err)
				}
			})
		}
		wg.Wait()
	})
}

// order runs tasks of the given priorities, given one after the other while the worker is taken, and returns their order.
func TestPrioritiesWithoutStarvation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1, QueueTimeout: time.Second})
		defer l.Close()
		free := occupy(t, l)
		var order []string
		var wg sync.WaitGroup
		give := func(p overload.Priority) {
			wg.Go(func() {
				_, err := Do(overload.WithPriority(t.Context(), p), l, func(context.Context) (int, error) {
					order = append(order, p.String())
					time.Sleep(10 * time.Millisecond)
					return 0, nil
				})
				if err != nil && p != overload.Critical {
					t.Errorf("%v: %v", p, err)
				}
			})
			synctest.Wait()
		}
		give(overload.Sheddable)
		give(overload.Default)
		give(overload.Critical)
		free()
		wg.Wait()
		if got := strings.Join(order, " "); got != "critical default sheddable" {
			t.Errorf("order %s", got)
		}

		// A flood of critical tasks, twice what can be done: one sheddable task has its turn before it times out.
		order = nil
		for i := range 300 {
			give(overload.Critical)
			if i == 20 {
				give(overload.Sheddable)
			}
			time.Sleep(5 * time.Millisecond)
		}
		wg.Wait()
		at := -1
		for i, p := range order {
			if p == "sheddable" {
				at = i
			}
		}
		if at < 40 || at > 70 { // two agings, of 25 tasks each, after its arrival at the 11th
			t.Errorf("the sheddable task came as number %d of %d", at, len(order))
		}
	})
}

func TestNewestFirstWhenTheQueueStands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1})
		defer l.Close()
		var order []int
		var wg sync.WaitGroup
		give := func(n int) {
			wg.Go(func() {
				_, err := Do(t.Context(), l, func(context.Context) (int, error) { order = append(order, n); return 0, nil })
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		free := occupy(t, l)
		for n := range 3 {
			give(n)
		}
		if l.Saturated() {
			t.Error("saturated by a short queue")
		}
		free()
		wg.Wait()
		if got := fmt.Sprint(order); got != "[0 1 2]" {
			t.Errorf("a short queue: %s", got)
		}
		order = nil
		free = occupy(t, l)
		for n := range 3 {
			give(n)
		}
		time.Sleep(101 * time.Millisecond)
		if !l.Saturated() {
			t.Error("not saturated by a queue that stands")
		}
		free()
		wg.Wait()
		if got := fmt.Sprint(order); got != "[2 1 0]" {
			t.Errorf("a queue that stands: %s", got)
		}
		if l.Saturated() {
			t.Error("saturated while nothing runs")
		}
	})
}

func TestDeadlinesBelowTheMedianRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 2})
		defer l.Close()
		heavy := func(context.Context) (int, error) { time.Sleep(100 * time.Millisecond); return 0, nil }
		within := func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			_, err := Do(ctx, l, nothing)
			return err
		}
		if err := within(time.Microsecond); err != nil {
			t.Fatalf("before the median is known: %v", err)
		}
		for range minRuns {
			if _, err := Do(t.Context(), l, heavy); err != nil {
				t.Fatal(err)
			}
		}
		if m := l.Stats().MedianRun; m != 100*time.Millisecond {
			t.Fatalf("median %v", m)
		}
		if err := within(99 * time.Millisecond); !errors.Is(err, ErrDeadline) {
			t.Errorf("99 ms: %v", err)
		}
		if err := within(101 * time.Millisecond); err != nil {
			t.Errorf("101 ms: %v", err)
		}
		// A second later the median may be old news.
		time.Sleep(time.Second)
		if err := within(time.Millisecond); err != nil {
			t.Errorf("after a second: %v", err)
		}
		if err := within(time.Millisecond); !errors.Is(err, ErrDeadline) {
			t.Errorf("the one after that: %v", err)
		}
		// One that waits until too little is left.
		free := occupy(t, l)
		result := make(chan error)
		go func() { result <- within(150 * time.Millisecond) }()
		time.Sleep(100 * time.Millisecond)
		free()
		if err := <-result; !errors.Is(err, ErrDeadline) {
			t.Errorf("waited too long for what is left: %v", err)
		}
		if n := l.Stats().RefusedDeadline; n != 3 {
			t.Errorf("%d refused", n)
		}
	})
}

func TestWeight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 4})
		defer l.Close()
		var mu sync.Mutex
		weights, most := 0, 0
		var wg sync.WaitGroup
		for i := range 40 {
			n := []int{1, 3, 2, 100, 0}[i%5]
			counts := min(max(n, 1), 4)
			wg.Go(func() {
				_, err := Do(Weight(t.Context(), n), l, func(context.Context) (int, error) {
					mu.Lock()
					weights += counts
					most = max(most, weights)
					mu.Unlock()
					time.Sleep(10 * time.Millisecond)
					mu.Lock()
					weights -= counts
					mu.Unlock()
					return 0, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most != 4 {
			t.Errorf("weights of %d at a time, want 4", most)
		}
	})
}

func TestThePermitIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter, err := overload.New("test", overload.Options{})
		if err != nil {
			t.Fatal(err)
		}
		l := testLane(t, Options{Workers: 1, MaxQueue: -1})
		defer l.Close()
		permit := func() context.Context {
			ctx, err := limiter.Acquire(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			return ctx
		}
		ctx := permit()
		_, err = Do(ctx, l, func(context.Context) (int, error) {
			if n := limiter.Stats().InFlight; n != 0 {
				t.Errorf("%d permits while the task runs", n)
			}
			return 0, nil
		})
		if err != nil {
			t.Error(err)
		}
		defer occupy(t, l)()
		ctx = permit()
		if _, err := Do(ctx, l, nothing); !errors.Is(err, ErrQueueFull) {
			t.Error(err)
		}
		if n := limiter.Stats().InFlight; n != 1 {
			t.Errorf("%d permits after a refusal, want the caller's own", n)
		}
		overload.Release(ctx)
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLane(t, Options{Workers: 1})
		free := occupy(t, l)
		waits := make(chan error)
		go func() {
			_, err := Do(t.Context(), l, nothing)
			waits <- err
		}()
		synctest.Wait()
		closed := make(chan struct{})
		for range 2 {
			go func() { l.Close(); closed <- struct{}{} }()
		}
		if err := <-waits; !errors.Is(err, ErrClosed) {
			t.Errorf("one that waits: %v", err)
		}
		synctest.Wait()
		select {
		case <-closed:
			t.Error("Close did not wait for what runs")
		default:
		}
		if _, err := Do(t.Context(), l, nothing); !errors.Is(err, ErrClosed) {
			t.Errorf("afterwards: %v", err)
		}
		free()
		<-closed
		<-closed
	})
}

func TestPlainWorkersUnderAQuota(t *testing.T) {
	before := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(before)
	var log strings.Builder
	for _, test := range []struct {
		system
		warned bool
		why    string
	}{
		{system{nice: niceThread, limit: func() string { return errQuota }}, false, errQuota},
		{system{nice: func() error { return syscall.EPERM }, limit: func() string { return "" }}, true, syscall.EPERM.Error()},
		{system{nice: func() error { return syscall.ENOSYS }, limit: func() string { return "" }}, true, syscall.ENOSYS.Error()},
		{system{nice: func() error { return syscall.EACCES }, limit: func() string { return "" }}, true, syscall.EACCES.Error()},
	} {
		log.Reset()
		warnOnce = sync.Once{}
		var lanes []*Lane
		for range 2 {
			l, err := newLane("test", Options{Workers: 8, Logger: slog.New(slog.NewTextHandler(&log, nil))}, test.system)
			if err != nil {
				t.Fatal(err)
			}
			lanes = append(lanes, l)
		}
		l := lanes[0]
		if s := l.Stats(); s.Workers != 3 || !strings.Contains(s.Effective, "3 plain workers") || !strings.Contains(s.Effective, test.why) {
			t.Errorf("%d workers: %s", s.Workers, s.Effective)
		}
		if n := strings.Count(log.String(), "cannot be niced"); n != 1 && test.warned || n != 0 && !test.warned {
			t.Errorf("%s: warned %d times", test.why, n)
		}
		free := occupy(t, l)
		if n := runtime.GOMAXPROCS(0); n != 4 {
			t.Errorf("GOMAXPROCS %d while plain workers run, was 4", n)
		}
		free()
		for _, l := range lanes {
			l.Close()
		}
	}
	few, err := newLane("test", Options{Workers: 1}, system{limit: func() string { return errQuota }})
	if err != nil {
		t.Fatal(err)
	}
	if s := few.Stats(); s.Workers != 1 {
		t.Errorf("%d workers, want the one that was asked for", s.Workers)
	}
}

func TestPauses(t *testing.T) {
	var p pauses
	edges := []float64{0, 0.001, 0.01, 0.1}
	if _, ok := p.since([]uint64{5, 5, 5}, edges); ok {
		t.Error("the first look compares with nothing")
	}
	if _, ok := p.since([]uint64{10, 5, 6}, edges); ok {
		t.Error("six pauses tell nothing")
	}
	if d, ok := p.since([]uint64{1000, 5, 6}, edges); !ok || d != 0 {
		t.Errorf("short ones: %v, %v", d, ok)
	}
	if d, ok := p.since([]uint64{1050, 6, 12}, edges); !ok || d != 10*time.Millisecond {
		t.Errorf("one in ten is long: %v, %v", d, ok)
	}
}
