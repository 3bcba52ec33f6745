package scale

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCheckCallersShareOneQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		c := newCheck(func(context.Context) error { asked.Add(1); time.Sleep(500 * time.Millisecond); return nil }, time.Second)
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
		c := newCheck(func(context.Context) error { asked.Add(1); <-let; return nil }, time.Second)
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
		if err := c.run(t.Context()); err != nil {
			t.Errorf("after it answered: %v", err)
		}
	})
}

func TestCheckSurvivesPanic(t *testing.T) {
	c := newCheck(func(context.Context) error { panic("boom") }, time.Second)
	if err := c.run(t.Context()); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("run = %v, want the panic as an error", err)
	}
}
