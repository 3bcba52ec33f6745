package scale

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCheckAsksOncePerTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked int
		fail := errors.New("down")
		c := newCheck(func(context.Context) error { asked++; return fail }, time.Second, time.Second)
		for range 5 {
			if err := c.run(t.Context()); err != fail {
				t.Fatalf("run = %v, want %v", err, fail)
			}
		}
		if asked != 1 {
			t.Errorf("asked %d times within the TTL, want 1", asked)
		}
		time.Sleep(time.Second)
		fail = nil
		if err := c.run(t.Context()); err != nil || asked != 2 {
			t.Errorf("after the TTL: run = %v, asked = %d; want nil, 2", err, asked)
		}
	})
}

func TestCheckCallersShareOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		c := newCheck(func(context.Context) error { asked.Add(1); time.Sleep(500 * time.Millisecond); return nil }, time.Second, -1)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if err := c.run(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := asked.Load(); n != 1 {
			t.Errorf("10 probes at once asked %d times, want 1", n)
		}
	})
}

// A component that ignores its context costs each probe its time-out and one goroutine in all, and is believed again as soon
// as it answers.
func TestCheckThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		let := make(chan struct{})
		c := newCheck(func(context.Context) error { asked.Add(1); <-let; return nil }, time.Second, time.Second)
		for range 3 {
			began := time.Now()
			err := c.run(t.Context())
			if err == nil || !strings.Contains(err.Error(), "no answer within 1s") {
				t.Fatalf("run = %v, want no answer", err)
			}
			if d := time.Since(began); d != time.Second {
				t.Errorf("took %v of virtual time, want 1s", d)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times while the first question is out, want 1", n)
		}
		close(let)
		synctest.Wait()
		time.Sleep(time.Second)
		if err := c.run(t.Context()); err != nil {
			t.Errorf("after it answered: %v", err)
		}
	})
}

func TestCheckSurvivesPanic(t *testing.T) {
	c := newCheck(func(context.Context) error { panic("boom") }, time.Second, time.Second)
	if err := c.run(t.Context()); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("run = %v, want the panic as an error", err)
	}
}
