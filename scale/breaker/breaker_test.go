package breaker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"runtime"
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
	quiet   = slog.New(slog.DiscardHandler)
)

func newTest(t testing.TB, o Options) *Breaker {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet
	}
	b, err := New("reviews", o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// do makes n calls that take some time and end with an error or without.
func do(b *Breaker, n int, took time.Duration, err error) (last error) {
	for range n {
		_, last = Do(ctx, b, func(context.Context) (int, error) { time.Sleep(took); return 0, err })
	}
	return last
}

func wantState(t *testing.T, b *Breaker, want State) {
	t.Helper()
	if got := b.State(); got != want {
		t.Fatalf("state %v, want %v; %+v", got, want, b.Stats())
	}
}

func wantOpenError(t *testing.T, err error) *OpenError {
	t.Helper()
	var e *OpenError
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want an *OpenError", err)
	}
	return e
}

func TestEveryBadOptionIsReported(t *testing.T) {
	_, err := New("x", Options{
		Window: -time.Second, Buckets: 1001, MinCalls: -1, FailureRate: 1.5, SlowRate: math.NaN(), OpenFor: time.Microsecond,
		Probes: -1, ProbeTimeout: -1, ThrottleWindow: -1, ThrottleRatio: 0.5, MaxThrottle: 2,
	})
	if err == nil {
		t.Fatal("accepted")
	}
	lines := strings.Split(err.Error(), "\n")
	for _, field := range []string{"Window = -1s", "Buckets = 1001", "MinCalls = -1", "FailureRate = 1.5", "SlowRate = NaN", "OpenFor = 1µs",
		"Probes = -1", "ProbeTimeout = -1ns", "ThrottleWindow = -1ns", "ThrottleRatio = 0.5", "MaxThrottle = 2"} {
		if !slices.ContainsFunc(lines, func(l string) bool {
			return strings.HasPrefix(l, "breaker: Options."+field+": must be ") && strings.Contains(l, "(0 means")
		}) {
			t.Errorf("no line for %s in\n%v", field, err)
		}
	}
	if len(lines) != 11 {
		t.Errorf("%d lines, want 11", len(lines))
	}
	if _, err := PerHost("x", Options{Probes: -1}); err == nil {
		t.Error("PerHost took a bad field")
	}
	if _, err := New("x", Options{}); err != nil {
		t.Errorf("zero options: %v", err)
	}
}

// The life of a breaker, with the default options.
func TestTripsProbesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{})
		do(b, 10, 0, nil)
		do(b, 9, 0, errDown)
		wantState(t, b, Closed) // 19 calls are too few
		if err := do(b, 1, 0, errDown); err != errDown {
			t.Fatalf("the call that trips got %v, not its own error", err)
		}
		wantState(t, b, Open)

		e := wantOpenError(t, do(b, 1, 0, nil))
		next := time.Now().Add(5 * time.Second)
		if e.Name != "reviews" || e.State != Open || e.Calls != 20 || e.Failures != 10 || e.Slow != 0 || !e.NextProbe.Equal(next) {
			t.Errorf("%+v", e)
		}
		if want := `breaker: "reviews" is open: of 20 calls 10 failed and 0 were slow; next probe at ` + next.Format("15:04:05.000Z07:00"); e.Error() != want {
			t.Errorf("%q, want\n%q", e, want)
		}

		time.Sleep(5*time.Second - 1)
		wantOpenError(t, do(b, 1, 0, nil))
		time.Sleep(time.Nanosecond)
		wantState(t, b, HalfOpen)
		if err := do(b, 2, 0, nil); err != nil {
			t.Fatal(err)
		}
		wantState(t, b, HalfOpen)
		do(b, 1, 0, nil)
		wantState(t, b, Closed)
		do(b, 19, 0, errDown)
		wantState(t, b, Closed) // with an empty window

		s := b.Stats()
		if s.Successes != 13 || s.Failures != 29 || s.Rejected != 2 || s.Trips != 1 || s.WindowCalls != 19 || s.WindowFailures != 19 {
			t.Errorf("%+v", s)
		}
	})
}

func TestAFailedProbeReopens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{MinCalls: 1})
		do(b, 1, 0, errDown)
		for round := range 3 {
			time.Sleep(5 * time.Second)
			do(b, 2, 0, nil)
			if err := do(b, 1, 0, errDown); err != errDown {
				t.Fatal(err)
			}
			wantState(t, b, Open)
			if e := wantOpenError(t, do(b, 1, 0, nil)); e.Calls != 3 || e.Failures != 1 {
				t.Errorf("%+v", e)
			}
			if got := b.Stats().Trips; got != uint64(round)+2 {
				t.Errorf("trips %d", got)
			}
		}
		time.Sleep(5 * time.Second)
		do(b, 1, 5*time.Second, nil) // works, but not as it should
		wantState(t, b, Open)
	})
}

func TestRates(t *testing.T) {
	for _, test := range []struct {
		name                      string
		o                         Options
		good, bad, slow, slowFail int
		want                      State
	}{
		{"just below", Options{}, 51, 49, 0, 0, Closed},
		{"on it, by a success", Options{MinCalls: 30, FailureRate: 0.9}, 3, 27, 0, 0, Open},
		{"a tenth of thirty", Options{MinCalls: 30, FailureRate: 0.1}, 27, 3, 0, 0, Open},
		{"slow", Options{}, 10, 0, 10, 0, Open},
		{"slow and few", Options{}, 11, 0, 9, 0, Closed},
		{"slow failures are both", Options{FailureRate: 0.6}, 10, 0, 0, 10, Open},
		{"failures off", Options{FailureRate: -1}, 0, 100, 0, 0, Closed},
		{"slow off", Options{SlowCall: -1}, 0, 0, 100, 0, Closed},
		{"slow rate off", Options{SlowRate: -1}, 0, 0, 100, 0, Closed},
		{"all must fail", Options{FailureRate: 1}, 1, 100, 0, 0, Closed},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if test.o.MinCalls == 0 {
					test.o.MinCalls = test.good + test.bad + test.slow + test.slowFail
				}
				test.o.Window = time.Hour
				b := newTest(t, test.o)
				do(b, test.slow, 5*time.Second, nil)
				do(b, test.slowFail, 5*time.Second, errDown)
				do(b, test.bad, 0, errDown)
				do(b, test.good, 5*time.Second-1, nil) // good last: a success trips too
				wantState(t, b, test.want)
			})
		})
	}
}

func TestWindowRolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{MinCalls: 20})
		do(b, 19, 0, errDown)
		time.Sleep(9 * time.Second)
		if got := b.Stats().WindowFailures; got != 19 {
			t.Errorf("%d failures after 9 s, want 19", got)
		}
		time.Sleep(time.Second)
		if got := b.Stats().WindowFailures; got != 0 {
			t.Errorf("%d failures after 10 s, want 0", got)
		}
		do(b, 19, 0, errDown)
		wantState(t, b, Closed)
		time.Sleep(5 * time.Second)
		do(b, 1, 0, nil)
		wantState(t, b, Open)
	})
}

// window against a list of what was added.
func TestWindowCountsAsAListWould(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		w := newWindow(100, 10)
		var now time.Duration
		type entry struct {
			at time.Duration
			t  tally
		}
		var list []entry
		for range 200 {
			now += time.Duration(r.IntN(1 + r.IntN(120)))
			v := tally{r.Uint64N(5), r.Uint64N(5), r.Uint64N(5)}
			w.add(now, v)
			list = append(list, entry{now, v})
			var want tally
			for _, e := range list {
				if now/10-e.at/10 < 10 {
					for i := range want {
						want[i] += e.t[i]
					}
				}
			}
			if got := w.total(now); got != want {
				t.Fatalf("at %d: %v, want %v", now, got, want)
			}
		}
	}
}

func TestWhatCountsAsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errTeapot := errors.New("teapot")
		b := newTest(t, Options{
			MinCalls:  1,
			IsIgnored: func(err error) bool { return err == errTeapot },
			IsFailure: func(err error) bool { return err != io.EOF },
		})
		for range 100 {
			ctx, cancel := context.WithCancel(ctx)
			_, err := Do(ctx, b, func(ctx context.Context) (int, error) { cancel(); <-ctx.Done(); return 0, errors.New("aborted") })
			if err == nil || err.Error() != "aborted" {
				t.Fatal(err)
			}
		}
		do(b, 100, 0, errTeapot)
		do(b, 100, 0, &OpenError{Name: "inner"})
		if s := b.Stats(); s.Ignored != 300 || s.WindowCalls != 0 {
			t.Errorf("%+v", s)
		}

		// Work that does not start says nothing, whether its caller left or its time is over.
		for range 2 {
			ctx, cancel := context.WithTimeout(ctx, 0)
			if _, err := Do(ctx, b, func(context.Context) (int, error) { t.Error("started"); return 0, nil }); err != context.DeadlineExceeded {
				t.Error(err)
			}
			cancel()
		}
		do(b, 10, 0, io.EOF) // an answer
		if s := b.Stats(); s.Ignored != 300 || s.Successes != 10 || s.Failures != 0 {
			t.Errorf("%+v", s)
		}
		wantState(t, b, Closed)

		// A dependency that does not make it in time failed.
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		b = newTest(t, Options{MinCalls: 1})
		Do(short, b, func(ctx context.Context) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		wantState(t, b, Open)
	})
}

// The probes' places go to three of a thousand callers, and nobody else gets through until they are done.
func TestCrowdAtHalfOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{MinCalls: 1})
		do(b, 1, 0, errDown)
		time.Sleep(5 * time.Second)
		var ran, rejected atomic.Int64
		release := make(chan struct{})
		crowd := func() {
			for range 1000 {
				go func() {
					_, err := Do(ctx, b, func(context.Context) (int, error) { ran.Add(1); <-release; return 0, nil })
					if e, ok := errors.AsType[*OpenError](err); ok {
						rejected.Add(1)
						if e.State != HalfOpen || e.NextProbe.After(time.Now()) || !strings.Contains(e.Error(), "is half-open: of 1 calls 1 failed and 0 were slow; probing since ") {
							t.Errorf("%+v %v", e, e)
						}
					}
				}()
			}
			synctest.Wait()
		}
		crowd()
		if ran.Load() != 3 || rejected.Load() != 997 {
			t.Errorf("%d ran, %d were rejected", ran.Load(), rejected.Load())
		}
		close(release)
		synctest.Wait()
		wantState(t, b, Closed)
		crowd()
		if ran.Load() != 1003 {
			t.Errorf("%d ran, want 1003", ran.Load())
		}
	})
}

// A probe that says nothing gives its place back.
func TestIgnoredProbesGiveTheirPlaceBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{MinCalls: 1, IsRefusal: func(err error) bool { return err == io.EOF }})
		do(b, 1, 0, errDown)
		time.Sleep(5 * time.Second)
		for range 50 {
			ctx, cancel := context.WithCancel(ctx)
			Do(ctx, b, func(ctx context.Context) (int, error) { cancel(); return 0, ctx.Err() })
		}
		if err := do(b, 50, 0, io.EOF); err != io.EOF {
			t.Fatal(err)
		}
		wantState(t, b, HalfOpen)
		do(b, 3, 0, nil)
		wantState(t, b, Closed)
	})
}

func TestPanicAndGoexitAreFailuresAndGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{MinCalls: 2, SlowCall: -1})
		boom := func() (v any) {
			defer func() { v = recover() }()
			Do(ctx, b, func(context.Context) (int, error) { panic(errDown) })
			return nil
		}
		exit := func() (returned bool) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				Do(ctx, b, func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
				returned = true
			}()
			<-done
			return returned
		}
		if v := boom(); v != errDown {
			t.Errorf("recovered %v", v)
		}
		if exit() {
			t.Error("Goexit was stopped")
		}
		wantState(t, b, Open)
		if s := b.Stats(); s.Panics != 2 || s.Failures != 2 {
			t.Errorf("%+v", s)
		}
		time.Sleep(5 * time.Second)
		if v := boom(); v != errDown {
			t.Errorf("recovered %v", v)
		}
		wantState(t, b, Open)
		time.Sleep(5 * time.Second)
		exit()
		wantState(t, b, Open)
	})
}

// A call that outlives the state it began in says nothing about the one it ends in.
func TestCallsFromBeforeTheTripDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{MinCalls: 10, SlowCall: -1})
		for range 9 {
			go do(b, 1, 7*time.Second, errDown) // end while half-open
			go do(b, 1, 9*time.Second, errDown) // end while closed again
		}
		synctest.Wait()
		do(b, 10, 0, errDown)
		wantState(t, b, Open)
		time.Sleep(8 * time.Second)
		wantState(t, b, HalfOpen)
		do(b, 3, 0, nil)
		wantState(t, b, Closed)
		time.Sleep(2 * time.Second)
		do(b, 1, 0, errDown)
		if s := b.Stats(); s.State != Closed || s.WindowFailures != 1 || s.Failures != 29 {
			t.Errorf("%+v", s)
		}
	})
}

// Between a call that finds that the window trips and gobreaker's hearing of it, the state may change. Neither a closed
// breaker that has just recovered nor a half-open one trips for that.
func TestATripThatComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTest(t, Options{MinCalls: 1})
		late := b.machine.Load().trip
		late() // the window is empty
		wantState(t, b, Closed)
		do(b, 1, 0, errDown)
		late()
		wantState(t, b, Open)
		time.Sleep(5 * time.Second)
		late()
		wantState(t, b, HalfOpen)
		if err := do(b, 3, 0, nil); err != nil {
			t.Error(err)
		}
		wantState(t, b, Closed)
		if n := b.Stats().Trips; n != 1 {
			t.Errorf("%d trips", n)
		}
	})
}

func TestForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes []string
		b := newTest(t, Options{MinCalls: 1, OnStateChange: func(name string, from, to State) {
			changes = append(changes, from.String()+">"+to.String())
		}})
		b.Force(Open)
		if e := wantOpenError(t, do(b, 1, 0, nil)); !e.Forced || !e.NextProbe.IsZero() || e.Error() != `breaker: "reviews" is open: forced` {
			t.Errorf("%+v %v", e, e)
		}
		time.Sleep(time.Hour)
		wantState(t, b, Open)
		b.Force(Closed)
		if err := do(b, 100, 0, errDown); err != errDown {
			t.Error(err)
		}
		if s := b.Stats(); s.State != Closed || !s.Forced || s.WindowFailures != 100 {
			t.Errorf("%+v", s)
		}
		b.Force(Auto)
		if s := b.Stats(); s.State != Closed || s.Forced || s.WindowFailures != 0 {
			t.Errorf("%+v", s)
		}
		do(b, 1, 0, errDown)
		wantState(t, b, Open)
		b.Force(Auto) // as it is: the breaker stays open
		wantState(t, b, Open)

		// A call and a probe from before do not touch what comes after.
		time.Sleep(5 * time.Second)
		go do(b, 1, time.Second, errDown)
		synctest.Wait()
		b.Force(Closed)
		b.Force(Auto)
		time.Sleep(time.Minute)
		wantState(t, b, Closed)
		if want := []string{"closed>open", "open>closed", "closed>open", "open>half-open", "half-open>closed"}; !slices.Equal(changes, want) {
			t.Errorf("%q, want %q", changes, want)
		}
	})
}

func TestDisabled(t *testing.T) {
	b := newTest(t, Options{Disabled: true, MinCalls: 1, IsRefusal: func(err error) bool { return err == io.EOF }})
	do(b, 1000, 0, errDown)
	do(b, 3000, 0, io.EOF) // throttles nothing either
	if s := b.Stats(); s.State != Closed || s.Failures != 1000 || s.Refused != 3000 || s.Throttled+s.Rejected != 0 {
		t.Errorf("%+v", s)
	}
	b.Force(Auto)
	do(b, 1000, 0, errDown)
	wantState(t, b, Open)
}

// Listeners hear every change, in order and one at a time, may use the breaker, and harm nobody by a panic.
func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *Breaker
		var inside atomic.Int32
		var heard []string
		var log strings.Builder
		b = newTest(t, Options{MinCalls: 1, Logger: slog.New(slog.NewTextHandler(&log, nil)), OnStateChange: func(name string, from, to State) {
			if inside.Add(1) != 1 {
				t.Error("two at a time")
			}
			defer inside.Add(-1)
			heard = append(heard, from.String()+">"+to.String())
			_ = b.State()
			_ = b.Stats()
			if to == Open && len(heard) == 1 {
				b.Force(Closed) // changes the state: heard after this one
				b.Force(Auto)
				do(b, 1, 0, errDown)
				panic("listener")
			}
		}})
		if err := do(b, 1, 0, errDown); err != errDown {
			t.Error(err)
		}
		if want := []string{"closed>open", "open>closed", "closed>open"}; !slices.Equal(heard, want) {
			t.Errorf("%q, want %q", heard, want)
		}
		time.Sleep(5 * time.Second)
		do(b, 3, 0, nil)
		if want := []string{"open>half-open", "half-open>closed"}; !slices.Equal(heard[3:], want) {
			t.Errorf("%q, want %q", heard[3:], want)
		}
		for _, line := range []string{
			`level=WARN msg="breaker is open" breaker=reviews was=closed calls=1 failures=1 slow=0 for=5s`,
			`level=INFO msg="breaker is closed" breaker=reviews was=half-open`,
			`level=ERROR msg="breaker: OnStateChange panicked" breaker=reviews panic=listener`,
		} {
			if !strings.Contains(log.String(), line) {
				t.Errorf("no line %s in\n%s", line, &log)
			}
		}
	})
}

// A listener that blocks holds up one caller, nobody else.
func TestBlockedListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		b := newTest(t, Options{MinCalls: 1, OnStateChange: func(string, State, State) { <-release }})
		go do(b, 1, 0, errDown)
		synctest.Wait()
		wantState(t, b, Open)
		wantOpenError(t, do(b, 1, 0, nil))
		time.Sleep(5 * time.Second)
		do(b, 3, 0, nil)
		wantState(t, b, Closed)
		close(release)
	})
}

// Many goroutines, many transitions: every call is counted once, and the breaker still works.
func TestConcurrentUse(t *testing.T) {
	var changes atomic.Uint64
	last := Closed
	b := newTest(t, Options{MinCalls: 5, OpenFor: time.Millisecond, Window: 10 * time.Millisecond, ProbeTimeout: time.Millisecond,
		OnStateChange: func(_ string, from, to State) {
			if from != last {
				t.Errorf("from %v after %v", from, last)
			}
			last = to
			changes.Add(1)
		}})
	var made, refusals atomic.Uint64
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(g)))
			for i := range 5000 {
				_, err := Do(ctx, b, func(context.Context) (int, error) {
					made.Add(1)
					if i%500 == 0 {
						time.Sleep(2 * time.Millisecond)
					}
					if r.IntN(2) == 0 {
						return 0, errDown
					}
					return 0, nil
				})
				if isOpen(err) {
					refusals.Add(1)
					runtime.Gosched()
				}
				if i%1000 == 999 && g == 0 {
					b.Force(State(r.IntN(4)))
				}
			}
		})
	}
	wg.Wait()
	b.Force(Closed)
	s := b.Stats()
	if s.Successes+s.Failures != made.Load() || s.Rejected != refusals.Load() || s.Throttled != 0 || changes.Load() == 0 {
		t.Errorf("made %d, refused %d, %d changes: %+v", made.Load(), refusals.Load(), changes.Load(), s)
	}
}

func TestStatsAsSamplesAndJSON(t *testing.T) {
	b := newTest(t, Options{MinCalls: 2})
	do(b, 1, 0, nil)
	do(b, 1, 0, errDown)
	do(b, 3, 0, nil)
	got := map[string]float64{}
	for s := range b.Samples() {
		if s.Attrs[0].Key != "breaker" || s.Attrs[0].Value != "reviews" {
			t.Errorf("%+v", s)
		}
		name := s.Name
		for _, a := range s.Attrs[1:] {
			name += " " + a.Value
		}
		got[name] = s.Value
	}
	for name, want := range map[string]float64{"fairlead.breaker.state": 2, "fairlead.breaker.calls success": 1, "fairlead.breaker.calls failure": 1,
		"fairlead.breaker.rejections open": 3, "fairlead.breaker.trips": 1} {
		if got[name] != want {
			t.Errorf("%s = %v, want %v", name, got[name], want)
		}
	}
	text, err := json.Marshal(b.Stats())
	var back Stats
	if err2 := json.Unmarshal(text, &back); err != nil || err2 != nil || back != b.Stats() || !strings.Contains(string(text), `"state":"open"`) {
		t.Errorf("%s: %v %v", text, err, err2)
	}
	if err := back.State.UnmarshalText([]byte("ajar")); err == nil {
		t.Error("read a state that is none")
	}
}
