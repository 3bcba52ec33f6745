package overload

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fixed is a limiter with n permits.
func fixed(t *testing.T, n int, o Options) *Limiter {
	o.Min, o.Max, o.Initial = n, n, n
	return limiterOf(t, o, nil)
}

func hold(t *testing.T, l *Limiter) context.Context {
	t.Helper()
	ctx, err := l.Acquire(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}

func TestAWaiterGetsThePermitThatIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fixed(t, 1, Options{})
		first := hold(t, l)
		began := time.Now()
		time.AfterFunc(10*time.Millisecond, func() { Release(first) })
		second := hold(t, l)
		if waited := time.Since(began); waited != 10*time.Millisecond {
			t.Errorf("waited %v", waited)
		}
		if s := l.Stats(); s.InFlight != 1 || s.Admitted != 2 || s.Wait.Count() != 1 || s.Saturation != 1 {
			t.Errorf("%+v", s)
		}
		Release(second)
		Release(second)
		Release(first)
		Release(context.Background())
		if s := l.Stats(); s.InFlight != 0 {
			t.Errorf("in flight %d after all is released", s.InFlight)
		}
	})
}

func TestReleaseFindsTheInnermostPermitThroughDerivedContexts(t *testing.T) {
	outer, inner := fixed(t, 4, Options{}), fixed(t, 4, Options{})
	ctx, err := outer.Acquire(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(WithPriority(ctx, Critical))
	defer cancel()
	in, err := inner.Acquire(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	Release(in)
	if outer.Stats().InFlight != 1 || inner.Stats().InFlight != 0 {
		t.Errorf("outer %d, inner %d: want the inner one released", outer.Stats().InFlight, inner.Stats().InFlight)
	}
	Release(ctx)
	if outer.Stats().InFlight != 0 {
		t.Error("the outer one is not released")
	}
}

func TestARefusalSaysWhyAndIsErrRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fixed(t, 1, Options{})
		defer Release(hold(t, l))
		began := time.Now()
		ctx, err := l.Acquire(WithPriority(context.Background(), Critical), "")
		if !errors.Is(err, ErrRefused) || err.Error() != "overload: test: refused (critical) after 50.001ms: no permit came free in time" {
			t.Errorf("%v", err)
		}
		if waited := time.Since(began).Round(time.Millisecond); waited != 50*time.Millisecond || ctx.Value(permitKey{}) != nil {
			t.Errorf("after %v", waited)
		}
		if s := l.Stats(); s.RefusedCritical != 1 || s.RefusedWaited != 1 || s.Waiting != 0 || s.InFlight != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestWorkThatCannotBeDoneByItsDeadlineIsNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fixed(t, 1, Options{})
		for range 200 { // a handler takes 20 ms, clients wait for a second
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			ctx, err := l.Acquire(ctx, "")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
			Release(ctx)
			cancel()
		}
		held := hold(t, l)
		defer Release(held)
		ctx, cancel := context.WithTimeout(context.Background(), 35*time.Millisecond)
		defer cancel()
		began := time.Now()
		_, err := l.Acquire(ctx, "")
		if !errors.Is(err, ErrRefused) || l.Stats().RefusedDeadline != 1 {
			t.Errorf("%v, %+v", err, l.Stats())
		}
		if waited := time.Since(began); waited > 15*time.Millisecond {
			t.Errorf("refused after %v: 35 ms are left and 20 needed", waited)
		}
		cancel()
		if _, err := l.Acquire(ctx, ""); !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that has ended: %v", err)
		}
	})
}

func TestAContextThatEndsLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fixed(t, 1, Options{})
		held := hold(t, l)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(5*time.Millisecond, cancel)
		if _, err := l.Acquire(ctx, ""); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		Release(held)
		if s := l.Stats(); s.Abandoned != 1 || s.Waiting != 0 || s.InFlight != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// order returns the names in the order in which they got the one permit, after all have queued.
func order(t *testing.T, o Options, pause time.Duration, arrivals ...arrival) []string {
	t.Helper()
	var got []string
	synctest.Test(t, func(t *testing.T) {
		l := fixed(t, 1, o)
		held := hold(t, l)
		for _, a := range arrivals {
			go func() {
				ctx, err := l.Acquire(WithPriority(context.Background(), a.priority), a.key)
				if err != nil {
					return
				}
				got = append(got, a.name)
				Release(ctx)
			}()
			synctest.Wait()
			time.Sleep(pause)
		}
		Release(held)
		synctest.Wait()
	})
	return got
}

type arrival struct {
	name, key string
	priority  Priority
}

func TestHigherPrioritiesComeFirst(t *testing.T) {
	got := order(t, Options{}, 0, arrival{"s", "", Sheddable}, arrival{"d", "", Default}, arrival{"c", "", Critical}, arrival{"d2", "", Default})
	if want := []string{"c", "d", "d2", "s"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestKeysTakeTurns(t *testing.T) {
	got := order(t, Options{}, 0, arrival{"a1", "a", 0}, arrival{"a2", "a", 0}, arrival{"a3", "a", 0}, arrival{"b1", "b", 0}, arrival{"b2", "b", 0}, arrival{"c1", "c", 0})
	if len(got) != 6 || !slices.Equal(sorted(got[:3]), []string{"a1", "b1", "c1"}) || !slices.Equal(sorted(got[3:5]), []string{"a2", "b2"}) || got[5] != "a3" {
		t.Errorf("got %v: want a round of three, of two, of one", got)
	}
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

func TestAStandingQueueServesTheNewest(t *testing.T) {
	// 8 arrive 5 ms apart; with StandingAfter at 20 ms the line stands when the permit comes free, and of what has waited less
	// than StandingWait, 12 ms, the newest is first.
	arrivals := make([]arrival, 8)
	for i := range arrivals {
		arrivals[i].name = fmt.Sprint(i)
	}
	o := Options{StandingAfter: 20 * time.Millisecond, StandingWait: 12 * time.Millisecond}
	if got, want := order(t, o, 5*time.Millisecond, arrivals...), []string{"7", "6"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := order(t, Options{}, 5*time.Millisecond, arrivals...); len(got) != 8 || got[0] != "0" {
		t.Errorf("a line that does not stand: got %v, want the oldest first", got)
	}
}

func TestAFullQueueMakesRoomForThoseWhoCountMore(t *testing.T) {
	for name, test := range map[string]struct {
		queued []arrival
		comes  arrival
		want   []string
	}{
		"higher priority": {[]arrival{{"s1", "", Sheddable}, {"d", "", Default}, {"s2", "", Sheddable}}, arrival{"c", "", Critical}, []string{"c", "d", "s2"}},
		"longer line":     {[]arrival{{"a1", "a", 0}, {"a2", "a", 0}, {"a3", "a", 0}}, arrival{"b", "b", 0}, []string{"a2", "a3", "b"}},
		"nobody":          {[]arrival{{"a", "a", 0}, {"b", "b", 0}, {"c", "c", 0}}, arrival{"d", "d", 0}, []string{"a", "b", "c"}},
		"lower priority":  {[]arrival{{"a", "", 0}, {"b", "", 0}, {"c", "", 0}}, arrival{"s", "", Sheddable}, []string{"a", "b", "c"}},
	} {
		if got := sorted(order(t, Options{MaxQueue: 3}, 0, append(test.queued, test.comes)...)); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
	if got := order(t, Options{MaxQueue: -1}, 0, arrival{"a", "", 0}); got != nil {
		t.Errorf("without a queue: got %v", got)
	}
}

// Keys that come once and are refused must not be kept.
func TestAQueueForgetsItsKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := fixed(t, 1, Options{})
		held := hold(t, l)
		for i := range 500 {
			for _, p := range []Priority{Sheddable, Critical} {
				go func() {
					ctx, err := l.Acquire(WithPriority(context.Background(), p), fmt.Sprint("key ", i))
					if err == nil {
						time.Sleep(time.Millisecond)
						Release(ctx)
					}
				}()
			}
			if i == 250 {
				Release(held)
			}
			time.Sleep(time.Millisecond)
		}
		l.mu.Lock()
		for i := range l.queue.classes {
			if c := &l.queue.classes[i]; len(c.flows) > 200 || len(c.flows) != len(c.heap) {
				t.Errorf("%s: %d keys, %d in the heap", c.priority, len(c.flows), len(c.heap))
			}
		}
		l.mu.Unlock()
		time.Sleep(time.Second)
		l.mu.Lock()
		defer l.mu.Unlock()
		for i := range l.queue.classes {
			if c := &l.queue.classes[i]; len(c.flows)+len(c.heap) != 0 {
				t.Errorf("%s: %d keys when nobody waits", c.priority, len(c.flows))
			}
		}
	})
}

func TestSheddableRequestsAreRefusedWhileMemoryRunsOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		used := uint64(96)
		l := limiterOf(t, Options{}, nil)
		l.memory.read = func() (uint64, uint64) { return used, 100 }
		try := func(p Priority) error {
			ctx, err := l.Acquire(WithPriority(context.Background(), p), "")
			Release(ctx)
			return err
		}
		if err := try(Sheddable); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "memory") {
			t.Errorf("sheddable: %v", err)
		}
		if err := errors.Join(try(Default), try(Critical)); err != nil {
			t.Error(err)
		}
		used = 95
		time.Sleep(time.Second)
		if err := try(Sheddable); err != nil {
			t.Errorf("at 95 of 100: %v", err)
		}
		if s := l.Stats(); s.RefusedMemory != 1 || s.RefusedSheddable != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestMemoryInUse(t *testing.T) {
	garbage := make([]byte, 64<<20)
	runtime.KeepAlive(garbage)
	runtime.GC()
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(1 << 40))
	used, limit := readMemory()
	if limit != 1<<40 || used < 1<<20 || used > 60<<20 {
		t.Errorf("%d used of %d: want what a small test process holds, without 64 MB of garbage", used, limit)
	}
	m := newMemory(0.95)
	if m.runsOut() {
		t.Error("runs out far from the limit")
	}
	debug.SetMemoryLimit(int64(used / 2))
	m = newMemory(0.95)
	if !m.runsOut() {
		t.Error("does not run out at twice the limit")
	}
	debug.SetMemoryLimit(math.MaxInt64)
	if newMemory(0.95).runsOut() {
		t.Error("runs out without a limit")
	}
	if newMemory(-1).runsOut() {
		t.Error("runs out though it is off")
	}
}

func TestOffLetsEverythingThrough(t *testing.T) {
	l := limiterOf(t, Options{Off: true, Max: 1}, nil)
	l.memory.read = func() (uint64, uint64) { return 100, 100 }
	for range 100 {
		if _, err := l.Acquire(WithPriority(context.Background(), Sheddable), ""); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.Stats(); s.InFlight != 100 || s.Admitted != 100 || s.Saturation != 0 {
		t.Errorf("%+v", s)
	}
}

func TestOptionsAreValidatedAllAtOnce(t *testing.T) {
	_, err := New("", Options{Initial: -1, Min: -2, Max: -3, MaxWait: -1, StandingAfter: -2, StandingWait: -3, Patience: -4, MaxPatience: -5, MaxMemory: math.NaN(), RetryAfter: -time.Second})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"overload: name is empty: must name the limiter",
		"overload: Options.Initial = -1: must be >= 0 (0 means 32)",
		"overload: Options.Min = -2: must be >= 0 (0 means 1)",
		"overload: Options.Max = -3: must be >= 0 (0 means 10000)",
		"overload: Options.MaxWait = -1ns: must be >= 0 (0 means 50ms)",
		"overload: Options.StandingAfter = -2ns: must be >= 0 (0 means 100ms)",
		"overload: Options.StandingWait = -3ns: must be >= 0 (0 means 10ms)",
		"overload: Options.Patience = -4ns: must be >= 0 (0 means 1s)",
		"overload: Options.MaxPatience = -5ns: must be >= 0 (0 means 10s)",
		"overload: Options.MaxMemory = NaN: must be <= 1, a share (0 means 0.95, negative never)",
		"overload: Options.RetryAfter = -1s: must be >= 0 (0 means 2s)",
	} {
		if !slices.Contains(strings.Split(err.Error(), "\n"), want) {
			t.Errorf("missing: %s\nin %v", want, err)
		}
	}
	for _, o := range []Options{{Min: 5, Max: 4}, {Initial: 5, Max: 4}, {Initial: 1, Min: 2}, {MaxMemory: 1.1}} {
		if _, err := New("x", o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	for _, o := range []Options{{}, {Max: 4}, {Min: 50}, {Min: 7, Max: 7, Initial: 7}, {MaxQueue: -1, MaxMemory: -1}} {
		l, err := New("x", o)
		if err != nil {
			t.Error(err)
			continue
		}
		if n := l.Stats().Limit; n < l.opts.Min || n > l.opts.Max {
			t.Errorf("%+v begins with a limit of %d", o, n)
		}
	}
}

func TestSamplesNameTheLimiter(t *testing.T) {
	l := limiterOf(t, Options{}, nil)
	names := map[string]int{}
	for s := range l.Samples() {
		names[s.Name]++
		if s.Attrs[0].Key != "limiter" || s.Attrs[0].Value != "test" {
			t.Errorf("%s has attributes %v", s.Name, s.Attrs)
		}
	}
	for name, n := range map[string]int{"fairlead.overload.limit": 1, "fairlead.overload.refused": 3, "fairlead.overload.refusals": 4, "fairlead.overload.wait": 1} {
		if names[name] != n {
			t.Errorf("%d samples of %s, want %d; all: %v", names[name], name, n, names)
		}
	}
}
