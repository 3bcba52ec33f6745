package overload

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// A server's own bound of 30 s on every request says nothing about how long clients wait; their leaving does.
func TestPatienceIsLearnedFromDeadlinesAndDepartures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fixed(t, 1000, Options{})
		serve := func(n int, deadline, leaves, takes time.Duration) {
			for range n {
				ctx, cancel := context.WithTimeout(context.Background(), deadline)
				time.AfterFunc(leaves, cancel)
				go func() {
					defer cancel()
					ctx, err := l.Acquire(ctx, "")
					if err != nil {
						return
					}
					time.Sleep(takes)
					Release(ctx)
				}()
				time.Sleep(time.Millisecond)
			}
			time.Sleep(time.Second)
		}
		serve(500, 30*time.Second, time.Hour, 5*time.Millisecond)
		if got := l.Stats().Patience; got != time.Second {
			t.Errorf("after deadlines of 30 s: %v, want what Options say", got)
		}
		serve(100, 30*time.Second, 2*time.Millisecond, time.Millisecond)
		if got := l.Stats().Patience; got != time.Second {
			t.Errorf("nobody has left: %v", got)
		}
		serve(1000, 30*time.Second, 80*time.Millisecond, 300*time.Millisecond)
		if got := l.Stats().Patience.Round(10 * time.Millisecond); got != 80*time.Millisecond {
			t.Errorf("all leave after 80 ms: %v", got)
		}
		if s := l.Stats(); s.Late != 1000 {
			t.Errorf("late %d", s.Late)
		}
		serve(1000, 200*time.Millisecond, time.Hour, 5*time.Millisecond)
		if got := l.Stats().Patience.Round(10 * time.Millisecond); got != 200*time.Millisecond {
			t.Errorf("deadlines of 200 ms: %v", got)
		}
	})
}

// Some people always click on before the answer is there.
func TestAFewDeparturesTeachNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fixed(t, 1000, Options{})
		for i := range 2000 {
			ctx, cancel := context.WithCancel(context.Background())
			if i%50 == 0 {
				time.AfterFunc(time.Millisecond, cancel)
			}
			go func() {
				defer cancel()
				ctx, err := l.Acquire(ctx, "")
				if err != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
				Release(ctx)
			}()
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		if s := l.Stats(); s.Patience != time.Second || s.Late < 30 {
			t.Errorf("%+v", s)
		}
	})
}

func TestWindowsAndProbesBeginOnTheWallClock(t *testing.T) {
	k := newKnee(Options{}.withDefaults())
	const ahead = 1234.5678
	k.advance(10, ahead, 0, false)
	if begins := (k.end + ahead) / minWidth; math.Abs(begins-math.Round(begins)) > 1e-6 || k.end <= 10 || k.end > 10+minWidth+1e-9 {
		t.Errorf("the window ends at %v of the wall clock", k.end+ahead)
	}
	if at := k.after(10, 1.6) + ahead; math.Abs(at/1.6-math.Round(at/1.6)) > 1e-6 {
		t.Errorf("the probe is at %v of the wall clock", at)
	}
}

func TestAProbeTellsAQueueInsideFromASlowService(t *testing.T) {
	for name, test := range map[string]struct {
		rate, inside float64 // in the probe; before it 100/s and 10 ms
		base         float64
		again        bool
	}{
		"a queue inside":       {100, 0.008, 0.008, true},
		"none":                 {80, 0.010, 0.010, false},
		"slower, not less out": {100, 0.020, 0.010, false},
		"the service slowed":   {60, 0.020, 0.020, false},
	} {
		k := newKnee(Options{}.withDefaults())
		k.file(0.012)
		k.file(0.010)
		k.rate = 100
		k.probed(test.rate, test.inside)
		if k.base != test.base || (k.factor < 1) != test.again {
			t.Errorf("%s: base %v, factor %v", name, k.base, k.factor)
		}
	}
}

// A stream that gave its permit back was in the handler for a time that says nothing of the service.
func TestAStreamIsNotMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiterOf(t, Options{}, nil)
		streams := make([]*permit, 0, 8)
		for range 2000 {
			ctx := hold(t, l)
			if len(streams) < cap(streams) {
				streams = append(streams, hold(t, l).(*permit))
			}
			time.Sleep(10 * time.Millisecond)
			Release(ctx)
			for _, p := range streams {
				l.withdraw(p)
			}
			streams = streams[:0]
		}
		if got := l.Stats().BaseTime.Round(time.Millisecond); got != 10*time.Millisecond {
			t.Errorf("base time %v: want that of the other requests, 10ms", got)
		}
	})
}

// Requests of 100 ms that began together before the window end in it, and fewer follow them: area and completions alone would
// say 60 ms.
func TestAFallingNumberInsideDoesNotLookFast(t *testing.T) {
	k := newKnee(Options{}.withDefaults())
	k.begin(1, 80)
	running := 80
	for i := range 80 {
		now := 1 + 0.05 + float64(i)*0.0005
		k.advance(now, 0, running, true)
		running--
		k.done(now, 0.1, false)
	}
	k.advance(1.1, 0, running, true)
	if k.base < 0.099 || k.base > 0.101 {
		t.Errorf("base %v s, want what the requests took, 0.1", k.base)
	}
}
