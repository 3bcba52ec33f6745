package retry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	errDown = errors.New("down")
	ctx     = context.Background()
)

func newTest(t testing.TB, o Options) *Budget {
	t.Helper()
	b, err := NewBudget("reviews", o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEveryBadOptionIsReported(t *testing.T) {
	_, err := NewBudget("x", Options{MaxAttempts: -1, BaseDelay: -time.Second, MaxDelay: time.Millisecond, Ratio: math.NaN(), Burst: 1e7})
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(err.Error(), "\n")
	for _, field := range []string{"MaxAttempts = -1", "BaseDelay = -1s", "MaxDelay = 1ms", "Ratio = NaN", "Burst = 10000000"} {
		if !slices.ContainsFunc(lines, func(l string) bool {
			return strings.HasPrefix(l, "retry: Options."+field+": must be ") && strings.Contains(l, "(0 means")
		}) {
			t.Errorf("no line for %s in\n%v", field, err)
		}
	}
	if len(lines) != 5 {
		t.Errorf("%d lines, want 5", len(lines))
	}
	for _, o := range []Options{{}, {BaseDelay: time.Minute}, {MaxDelay: time.Minute}, {Ratio: -1, Burst: -1}} {
		if _, err := NewBudget("x", o); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// The promise: against a target that always fails, attempts <= 1.1*requests + 10, and the budget is used.
func TestAttemptsAreBounded(t *testing.T) {
	for _, test := range []struct{ requests, clients, attempts int }{{1, 1, 3}, {7, 1, 3}, {1000, 1, 3}, {1000, 1, 50}, {5000, 20, 4}, {3, 1, 100}} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newTest(t, Options{MaxAttempts: test.attempts})
				var attempts atomic.Int64
				var wg sync.WaitGroup
				for range test.clients {
					wg.Go(func() {
						for range test.requests / test.clients {
							if _, err := Do(ctx, b, func(context.Context) (int, error) { attempts.Add(1); return 0, errDown }); err != errDown {
								t.Error(err)
							}
						}
					})
				}
				wg.Wait()
				got, tenths := int(attempts.Load()), 11*test.requests+100
				if got*10 > tenths {
					t.Errorf("%d attempts for %d requests", got, test.requests)
				}
				// The shares of the first requests find the bucket full.
				if want := min(tenths/10-1-test.clients/10, test.requests*test.attempts); got < want {
					t.Errorf("%d attempts for %d requests, want %d at least", got, test.requests, want)
				}
				s := b.Stats()
				if s.Requests != uint64(test.requests) || s.Requests+s.Retries != uint64(got) || s.Recovered != 0 {
					t.Errorf("%+v, %d attempts", s, got)
				}
			})
		})
	}
}

func TestBudgetSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			o    Options
			want uint64 // retries of 1000 requests
		}{
			{Options{Burst: -1, Ratio: 0.25}, 250}, {Options{Burst: 5, Ratio: -1}, 5}, {Options{Burst: -1, Ratio: -1}, 0},
			{Options{Ratio: 1, MaxAttempts: 2}, 1000}, {Options{MaxAttempts: 1}, 0}, {Options{Burst: -1}, 100},
		} {
			b := newTest(t, test.o)
			for range 1000 {
				Do(ctx, b, func(context.Context) (int, error) { return 0, errDown })
			}
			if got := b.Stats().Retries; got != test.want {
				t.Errorf("%+v: %d retries, want %d", test.o, got, test.want)
			}
		}
		// Good times save up for Burst retries and no more.
		b := newTest(t, Options{})
		for range 100_000 {
			Do(ctx, b, func(context.Context) (int, error) { return 0, nil })
		}
		for range 100 {
			Do(ctx, b, func(context.Context) (int, error) { return 0, errDown })
		}
		if got := b.Stats().Retries; got < 19 || got > 20 {
			t.Errorf("%d retries of 100 requests after 100000 good ones, want 19 or 20", got)
		}
	})
}

func TestDoReturnsWhatSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{})
		n := 0
		v, err := Do(ctx, b, func(context.Context) (string, error) {
			if n++; n < 3 {
				return "", errDown
			}
			return "fine", nil
		})
		if v != "fine" || err != nil || n != 3 {
			t.Error(v, err, n)
		}
		if s := b.Stats(); s != (Stats{Requests: 1, Retries: 2, Recovered: 1}) {
			t.Errorf("%+v", s)
		}
		for s := range b.Samples() {
			if s.Name == "fairlead.retry.retries" && (s.Value != 2 || s.Attrs[0].Value != "reviews") {
				t.Errorf("%+v", s)
			}
		}
	})
}

// like an open breaker's error
type local struct{ retryable bool }

func (local) Error() string     { return "refused here" }
func (l local) Retryable() bool { return l.retryable }

func TestWhatIsNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wrapped := fmt.Errorf("reviews: %w", Permanent(errDown))
		for _, test := range []struct {
			name     string
			err      error
			want     error
			attempts int
		}{
			{"an error", errDown, errDown, 3},
			{"permanent", Permanent(errDown), errDown, 1},
			{"permanent, wrapped", wrapped, wrapped, 1},
			{"refused locally", local{}, local{}, 1},
			{"worth it", local{true}, local{true}, 3},
			{"by the option", context.Canceled, context.Canceled, 1},
		} {
			b := newTest(t, Options{IsRetryable: func(err error) bool { return err != context.Canceled }})
			attempts := 0
			_, err := Do(ctx, b, func(context.Context) (int, error) { attempts++; return 0, test.err })
			if err != test.want || attempts != test.attempts {
				t.Errorf("%s: %v after %d attempts, want %d", test.name, err, attempts, test.attempts)
			}
		}
		if Permanent(nil) != nil {
			t.Error("Permanent(nil) is an error")
		}
	})
}

// With a deadline that the wait would pass, the last error comes at once, and costs no token.
func TestNoWaitPastTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{BaseDelay: time.Hour, MaxDelay: time.Hour})
		start := time.Now()
		short, cancel := context.WithTimeout(ctx, time.Millisecond/1000)
		defer cancel()
		if _, err := Do(short, b, func(context.Context) (int, error) { return 0, errDown }); err != errDown {
			t.Error(err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %v", took)
		}
		if s := b.Stats(); s.Retries != 0 || s.Exhausted != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestCancelledWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{BaseDelay: time.Hour, MaxDelay: time.Hour})
		ctx, cancel := context.WithCancel(ctx)
		start := time.Now()
		attempts := 0
		done := make(chan error)
		go func() {
			_, err := Do(ctx, b, func(context.Context) (int, error) { attempts++; return 0, errDown })
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, errDown) || attempts != 1 {
			t.Error(err, attempts)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("went on waiting for %v", took)
		}
		// A context that is done already ends it after the first attempt.
		if _, err := Do(ctx, b, func(context.Context) (int, error) { attempts++; return 0, errDown }); err != errDown || attempts != 2 {
			t.Error(err, attempts)
		}
	})
}

// Full jitter: waits fill 0 to BaseDelay * 2^n, up to MaxDelay.
func TestBackoff(t *testing.T) {
	b := newTest(t, Options{BaseDelay: 100 * time.Millisecond, MaxDelay: 500 * time.Millisecond})
	for n, ms := range []int{100, 200, 400, 500, 500, 500} {
		most := time.Duration(ms) * time.Millisecond
		low, high := most, time.Duration(0)
		for range 2000 {
			d := b.backoff(n)
			low, high = min(low, d), max(high, d)
		}
		if low <= 0 || high > most || low > most/20 || high < most-most/20 {
			t.Errorf("retry %d waits %v to %v, want up to %v", n, low, high, most)
		}
	}
	if d := newTest(t, Options{MaxDelay: math.MaxInt64}).backoff(10_000); d <= 0 {
		t.Error(d)
	}
}

func TestPanicsPassThrough(t *testing.T) {
	b := newTest(t, Options{})
	defer func() {
		if v := recover(); v != errDown {
			t.Error(v)
		}
	}()
	Do(ctx, b, func(context.Context) (int, error) { panic(errDown) })
}
