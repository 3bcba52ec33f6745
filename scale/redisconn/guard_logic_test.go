package redisconn

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/scale/breaker"
)

// fakeServer answers a PING as it is told: in no time, with an error in no time, or not at all.
type fakeServer struct {
	server
	mode  atomic.Int32
	pings atomic.Int32
}

const (
	alive int32 = iota
	refusing
	silent
)

func newFake(t *testing.T) *fakeServer {
	hosts, err := newHosts()
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeServer{}
	f.server = server{addr: "r:1", breaker: hosts.For("r:1"), began: time.Now(), refused: new(atomic.Uint64), life: newLife()}
	f.ping = func(ctx context.Context) error {
		f.pings.Add(1)
		switch f.mode.Load() {
		case refusing:
			return errors.New("connection refused")
		case silent:
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	t.Cleanup(func() { f.life.end() })
	return f
}

// call is a command that the guard lets pass or not, and that ends as the server does, after budget if it is silent.
func (f *fakeServer) call(budget time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), budget)
	defer cancel()
	return f.ProcessHook(func(ctx context.Context, _ redis.Cmder) error {
		switch f.mode.Load() {
		case refusing:
			return errors.New("connection refused")
		case silent:
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})(ctx, redis.NewCmd(ctx))
}

func isRefusal(err error) bool {
	var open *breaker.OpenError
	return errors.As(err, &open) && errors.Is(err, ErrUnavailable) && !open.Retryable()
}

func (f *fakeServer) want(t *testing.T, state breaker.State, pings int32) {
	t.Helper()
	synctest.Wait()
	if s, n := f.breaker.State(), f.pings.Load(); s != state || n != pings {
		t.Fatalf("%v after %d PINGs, want %v after %d", s, n, state, pings)
	}
}

func TestGuardARefusedPingCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.mode.Store(refusing)
		if err := f.call(time.Second); err == nil || isRefusal(err) {
			t.Fatalf("the first call: %v, want the server's own error", err)
		}
		f.want(t, breaker.Open, 1)
		began := time.Now()
		for range 100 {
			if err := f.call(time.Second); !isRefusal(err) {
				t.Fatal(err)
			}
		}
		if time.Since(began) != 0 || f.refused.Load() != 100 {
			t.Errorf("100 refusals took %v, %d were counted", time.Since(began), f.refused.Load())
		}
		time.Sleep(openFor)
		f.want(t, breaker.Open, 2)
		f.mode.Store(alive)
		if err := f.call(time.Second); !isRefusal(err) {
			t.Fatalf("before the next PING: %v", err)
		}
		time.Sleep(openFor)
		f.want(t, breaker.Closed, 3)
		if err := f.call(time.Second); err != nil {
			t.Fatal(err)
		}
	})
}

func TestGuardSilenceNeedsTwoPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.mode.Store(silent)
		began := time.Now()
		for range 8 { // all of them one PING
			go f.call(50 * time.Millisecond)
		}
		time.Sleep(50 * time.Millisecond)
		f.want(t, breaker.Closed, 1)
		time.Sleep(pingTimeout)
		f.want(t, breaker.Closed, 2)
		time.Sleep(pingTimeout)
		f.want(t, breaker.Open, 2)
		if took := time.Since(began); took != 550*time.Millisecond {
			t.Errorf("cut off after %v", took)
		}
		if err := f.call(time.Second); !isRefusal(err) {
			t.Error(err)
		}

		// A server that was silent for less than that is not cut off.
		g := newFake(t)
		g.mode.Store(silent)
		g.call(50 * time.Millisecond)
		time.Sleep(pingTimeout)
		g.want(t, breaker.Closed, 2)
		g.mode.Store(alive) // too late for the PING that waits
		time.Sleep(pingTimeout)
		g.want(t, breaker.Open, 2)
		time.Sleep(openFor)
		g.want(t, breaker.Closed, 3)
	})
}

func TestGuardSmallBudgetsAreNoFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		late := func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			f.ProcessHook(func(ctx context.Context, _ redis.Cmder) error { <-ctx.Done(); return ctx.Err() })(ctx, redis.NewCmd(ctx))
		}
		for range 100 { // 100 ms: a PING at the first, and one each time the last is trusted no more
			late()
		}
		f.want(t, breaker.Closed, 2)
		if s := f.breaker.Stats(); s.Trips != 0 || s.Successes != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestGuardWhatSaysNothingOfTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.mode.Store(refusing)
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		ctx := context.Background()
		f.saw(gone, gone.Err())
		f.saw(gone, errors.New("read: use of closed connection"))
		f.saw(ctx, redis.Nil)
		f.saw(ctx, redis.ErrClosed)
		f.saw(ctx, redis.TxFailedErr)
		f.want(t, breaker.Closed, 0)
		f.saw(ctx, redis.ErrPoolTimeout)
		f.want(t, breaker.Open, 1)
	})
}

// A server that nobody asks for is not asked by the guard either, and the next call finds out what has become of it.
func TestGuardLeavesAnIdleServerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.mode.Store(refusing)
		f.call(time.Second)
		time.Sleep(time.Hour)
		if n := f.pings.Load(); n > 1+int32(idleAfter/openFor) {
			t.Errorf("%d PINGs in an hour", n)
		}
		if err := f.call(time.Second); !isRefusal(err) {
			t.Errorf("still down: %v", err)
		}
		time.Sleep(time.Hour)
		f.mode.Store(silent)
		began := time.Now()
		if err := f.call(50 * time.Millisecond); !isRefusal(err) || time.Since(began) != 50*time.Millisecond {
			t.Errorf("silent: %v after %v", err, time.Since(began))
		}
		time.Sleep(time.Hour)
		f.mode.Store(alive)
		began = time.Now()
		if err := f.call(50 * time.Millisecond); err != nil || time.Since(began) != 0 {
			t.Errorf("back for long: %v after %v", err, time.Since(began))
		}
	})
}

func TestGuardEndsWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.mode.Store(silent)
		f.call(time.Millisecond)
		synctest.Wait()
		began := time.Now()
		f.life.end() // waits for the PING under way, which is cut short
		if time.Since(began) != 0 || f.pings.Load() != 1 {
			t.Errorf("%v, %d PINGs", time.Since(began), f.pings.Load())
		}
		f.suspect()
		f.want(t, breaker.Closed, 1)
	})
}

func TestGuardTellsOfATrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		told := 0
		f.tripped = func() { told++ }
		f.mode.Store(refusing)
		f.call(time.Second)
		synctest.Wait()
		if told != 1 {
			t.Errorf("told %d times", told)
		}
	})
}
