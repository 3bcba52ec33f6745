package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/cache"
)

const backstop = time.Minute

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// open makes a cache that closes with the test.
func open[K comparable, V any](t testing.TB, load func(context.Context, K) (V, error), o cache.Options[K, V]) *cache.Cache[K, V] {
	t.Helper()
	if o.Logger == nil {
		o.Logger = quiet
	}
	c, err := cache.New("test", load, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// patient is the RemoteTimeout of tests in real time that count loads: a stall of theirs is not the remote's.
const patient = time.Minute

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(backstop); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func want[V comparable](t *testing.T, got V, err error, want V) {
	t.Helper()
	if err != nil || got != want {
		t.Fatalf("got %v, %v; want %v", got, err, want)
	}
}

// addsUp checks that every get was counted, once.
func addsUp[K comparable, V any](t *testing.T, c *cache.Cache[K, V], gets int) {
	t.Helper()
	s := c.Stats()
	if s.Memory+s.Remote+s.Miss+s.Stale+s.Errors != s.Gets || s.Gets != uint64(gets) {
		t.Errorf("%d gets were made; stats: %+v", gets, s)
	}
}

// gate is an origin that answers when it is told to.
type gate struct {
	begun chan context.Context
	open  chan error
	loads atomic.Int64
}

func newGate() *gate { return &gate{begun: make(chan context.Context, 100), open: make(chan error)} }

func (g *gate) load(ctx context.Context, key int) (int, error) {
	n := int(g.loads.Add(1))
	g.begun <- ctx
	select {
	case err := <-g.open:
		return key*1000 + n, err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func TestOneLoadForAll(t *testing.T) {
	g := newGate()
	c := open(t, g.load, cache.Options[int, int]{})
	const readers = 10_000
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			got, err := c.Get(t.Context(), 7)
			if err != nil || got != 7001 {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
	<-g.begun
	g.open <- nil
	wg.Wait()
	if n := g.loads.Load(); n != 1 {
		t.Errorf("%d loads, want 1", n)
	}
	addsUp(t, c, readers)
	s := c.Stats()
	if s.Loads != 1 || s.Entries != 1 || s.LoadTime.Count() != 1 {
		t.Errorf("stats: %+v", s)
	}
}

func TestLeaderCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := open(t, g.load, cache.Options[int, int]{})
		leader, cancel := context.WithCancel(context.WithValue(t.Context(), ctxKey{}, "leader"))
		ended := make(chan error)
		go func() {
			_, err := c.Get(leader, 1)
			ended <- err
		}()
		ctx := <-g.begun
		if ctx.Value(ctxKey{}) != "leader" {
			t.Error("the load does not have its first caller's values")
		}
		var wg sync.WaitGroup
		for range 99 {
			wg.Go(func() {
				got, err := c.Get(t.Context(), 1)
				if err != nil || got != 1001 {
					t.Errorf("waiter got %d, %v", got, err)
				}
			})
		}
		synctest.Wait()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("leader got %v", err)
		}
		synctest.Wait()
		if ctx.Err() != nil {
			t.Error("the load was cancelled with 99 waiting")
		}
		g.open <- nil
		wg.Wait()
		if n := g.loads.Load(); n != 1 {
			t.Errorf("%d loads, want 1", n)
		}
		addsUp(t, c, 100)
	})
}

type ctxKey struct{}

func TestLastWaiterEndsTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := open(t, g.load, cache.Options[int, int]{})
		const waiters = 3
		var cancels []context.CancelFunc
		for range waiters {
			ctx, cancel := context.WithCancel(t.Context())
			cancels = append(cancels, cancel)
			go c.Get(ctx, 1)
		}
		ctx := <-g.begun
		for i, cancel := range cancels {
			synctest.Wait()
			if ctx.Err() != nil {
				t.Fatalf("load cancelled after %d of %d had left", i, waiters)
			}
			cancel()
		}
		synctest.Wait()
		if ctx.Err() == nil {
			t.Error("nobody waits, and the load goes on")
		}
		// It is not a failure of the origin: who comes now loads at once.
		go func() { <-g.begun; g.open <- nil }()
		got, err := c.Get(t.Context(), 1)
		want(t, got, err, 1002)
	})
}

func TestWaiterLeavesAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := open(t, g.load, cache.Options[int, int]{})
		go c.Get(t.Context(), 1)
		<-g.begun
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		start := time.Now()
		_, err := c.Get(ctx, 1)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != 20*time.Millisecond {
			t.Errorf("left after %v with %v", took, err)
		}
		g.open <- nil
	})
}

func TestLoadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		var loads atomic.Int64
		c := open(t, func(context.Context, int) (int, error) {
			if loads.Add(1) == 1 {
				<-stuck // does not look at its context
			}
			return 5, nil
		}, cache.Options[int, int]{LoadTimeout: time.Second})
		start := time.Now()
		_, err := c.Get(t.Context(), 1)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took != time.Second {
			t.Errorf("ended after %v with %v", took, err)
		}
		got, err := c.Get(t.Context(), 1) // does not wait for the stuck one
		want(t, got, err, 5)
		close(stuck)
		synctest.Wait()
		got, err = c.Get(t.Context(), 1)
		want(t, got, err, 5)
	})
}

func TestInvalidateDuringLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := open(t, g.load, cache.Options[int, int]{})
		old := make(chan int)
		go func() {
			v, _ := c.Get(t.Context(), 1)
			old <- v
		}()
		<-g.begun
		if err := c.Invalidate(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		fresh := make(chan int)
		go func() {
			v, _ := c.Get(t.Context(), 1)
			fresh <- v
		}()
		<-g.begun // it began another load instead of joining the old one
		synctest.Wait()

		// A third waits: two are running.
		if err := c.Invalidate(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		third := make(chan int)
		for range 2 {
			go func() {
				v, _ := c.Get(t.Context(), 1)
				third <- v
			}()
		}
		synctest.Wait()
		if n := g.loads.Load(); n != 2 {
			t.Fatalf("%d loads are running, want 2", n)
		}
		g.open <- nil
		<-g.begun
		g.open <- nil
		g.open <- nil
		<-old
		<-fresh
		if a, b := <-third, <-third; a != 1003 || b != 1003 {
			t.Errorf("those who came after the second invalidation got %d and %d, want what the third load brought", a, b)
		}
		got, err := c.Get(t.Context(), 1)
		want(t, got, err, 1003)
		addsUp(t, c, 5)
	})
}

func TestPanicAndGoexit(t *testing.T) {
	c := open(t, func(_ context.Context, key string) (int, error) {
		if key == "panic" {
			panic(io.ErrUnexpectedEOF)
		}
		runtime.Goexit()
		return 0, nil
	}, cache.Options[string, int]{})
	for _, key := range []string{"panic", "goexit"} {
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := c.Get(t.Context(), key)
				var p *cache.PanicError
				if err == nil || (key == "panic") != errors.As(err, &p) || (key == "panic") != errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("%s: %v", key, err)
				}
				if p != nil && len(p.Stack) == 0 {
					t.Error("no stack")
				}
			})
		}
		wg.Wait()
	}
	addsUp(t, c, 100)
	if s := c.Stats(); s.Errors != 100 {
		t.Errorf("stats: %+v", s)
	}
}

func TestReentrant(t *testing.T) {
	var c *cache.Cache[int, int]
	c = open(t, func(ctx context.Context, key int) (int, error) {
		if key > 2 {
			return key, nil
		}
		return c.Get(ctx, 3-key) // 1 needs 2 and 2 needs 1
	}, cache.Options[int, int]{})
	_, err := c.Get(t.Context(), 1)
	if !errors.Is(err, cache.ErrReentrant) {
		t.Errorf("got %v", err)
	}
	got, err := c.Get(t.Context(), 3)
	want(t, got, err, 3)
}

func TestDifferentKeysDoNotWait(t *testing.T) {
	g := newGate()
	c := open(t, g.load, cache.Options[int, int]{})
	var wg sync.WaitGroup
	for key := range 100 {
		wg.Go(func() { c.Get(t.Context(), key) })
	}
	for range 100 { // all are running at once
		<-g.begun
	}
	for range 100 {
		g.open <- nil
	}
	wg.Wait()
}

// A Get that missed memory just before a load ended does not load again.
func TestMemoryIsLookedAtAgain(t *testing.T) {
	loads := make([]atomic.Int64, 5000)
	c := open(t, func(_ context.Context, key int) (int, error) {
		loads[key].Add(1)
		return key, nil
	}, cache.Options[int, int]{MaxEntries: 2 * len(loads)})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for key := range loads {
				if got, err := c.Get(t.Context(), key); err != nil || got != key {
					t.Errorf("got %d, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
	for key := range loads {
		if n := loads[key].Load(); n != 1 {
			t.Errorf("key %d was loaded %d times", key, n)
		}
	}
}

func TestStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		var failure atomic.Pointer[error]
		c := open(t, func(context.Context, int) (int64, error) {
			time.Sleep(time.Second)
			if err := failure.Load(); err != nil {
				return 0, *err
			}
			return n.Add(1), nil
		}, cache.Options[int, int64]{TTL: time.Minute, StaleWhileRevalidate: time.Minute, StaleIfError: time.Hour, EarlyRefresh: -1})
		look := func(value int64, tier string, stale bool) cache.Result[int64] {
			t.Helper()
			r, err := c.Lookup(t.Context(), 1)
			if err != nil || r.Value != value || r.Tier != tier || r.Stale != stale || stale != (r.TTL < 0) {
				t.Fatalf("got %+v, %v; want %d from %s, stale %v", r, err, value, tier, stale)
			}
			return r
		}
		look(1, "origin", false)
		time.Sleep(50 * time.Second)
		if r := look(1, "memory", false); r.Age != 51*time.Second || r.TTL <= 0 || r.TTL > 9*time.Second {
			t.Errorf("age %v, ttl %v", r.Age, r.TTL)
		}
		time.Sleep(30 * time.Second)
		start := time.Now()
		for range 10 {
			look(1, "memory", true)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("a stale value took %v", took)
		}
		time.Sleep(2 * time.Second)
		look(2, "memory", false) // one load behind
		failing := errors.New("origin is down")
		failure.Store(&failing)
		time.Sleep(10 * time.Minute)
		look(2, "memory", true) // its load failed
		look(2, "memory", true) // and is not tried again at once
		if s := c.Stats(); s.LoadErrors != 1 || s.Loads != 3 {
			t.Errorf("stats: %+v", s)
		}
		if err := c.Invalidate(t.Context(), 1); err != nil { // a stale value that is known to be wrong helps nobody
			t.Fatal(err)
		}
		if _, err := c.Get(t.Context(), 1); !errors.Is(err, failing) {
			t.Errorf("after an invalidation, with the origin down: %v", err)
		}
		failure.Store(nil)
		time.Sleep(time.Minute)
		look(3, "origin", false)
		time.Sleep(2 * time.Hour)
		look(4, "origin", false) // beyond all windows
		addsUp(t, c, 18)
	})
}

// A value that is invalidated while it is loaded anew is not what the failed load falls back to.
func TestInvalidatedIsNoSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		c := open(t, g.load, cache.Options[int, int]{StaleIfError: time.Hour})
		failing := errors.New("origin is down")
		get := func(answer error, between func()) error {
			ended := make(chan error)
			go func() {
				_, err := c.Get(t.Context(), 1)
				ended <- err
			}()
			<-g.begun
			between()
			g.open <- answer
			return <-ended
		}
		if err := get(nil, func() {}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Minute)
		if err := get(failing, func() {}); err != nil {
			t.Errorf("the stale value was not served: %v", err)
		}
		time.Sleep(time.Minute)
		if err := get(failing, func() { c.Invalidate(t.Context(), 1) }); !errors.Is(err, failing) {
			t.Errorf("got %v, want the load's error", err)
		}
	})
}

func TestFailingLoaderIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failing := errors.New("origin is down")
		var loads atomic.Int64
		c := open(t, func(context.Context, int) (int, error) {
			loads.Add(1)
			time.Sleep(time.Millisecond)
			return 0, failing
		}, cache.Options[int, int]{})
		var gets atomic.Int64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
					gets.Add(1)
					if _, err := c.Get(t.Context(), 1); !errors.Is(err, failing) {
						t.Errorf("got %v", err)
					}
				}
			})
		}
		wg.Wait()
		if n := loads.Load(); n > 15 || n < 3 {
			t.Errorf("64 callers made %d calls of a failing origin in a second", n)
		}
		addsUp(t, c, int(gets.Load()))
	})
}

var errNoRows = errors.New("no rows")

func isNoRows(err error) bool { return errors.Is(err, errNoRows) }

func TestNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var loads atomic.Int64
		var there atomic.Bool
		c := open(t, func(_ context.Context, key int) (int, error) {
			loads.Add(1)
			if there.Load() {
				return key, nil
			}
			return 0, errNoRows
		}, cache.Options[int, int]{NotFound: isNoRows, NegativeTTL: time.Second})
		for range 3 {
			if _, err := c.Get(t.Context(), 1); err != errNoRows {
				t.Errorf("got %v, want the loader's own error", err)
			}
		}
		if n := loads.Load(); n != 1 {
			t.Errorf("%d loads within NegativeTTL", n)
		}
		time.Sleep(2 * time.Second)
		c.Get(t.Context(), 1)
		if n := loads.Load(); n != 2 {
			t.Errorf("%d loads after NegativeTTL", n)
		}
		there.Store(true)
		if err := c.Invalidate(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		got, err := c.Get(t.Context(), 1)
		want(t, got, err, 1)
		addsUp(t, c, 5)
		if s := c.Stats(); s.Errors != 0 {
			t.Errorf("not found counts as an error: %+v", s)
		}
	})
}

func TestGetMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		var bulks [][]int
		release := make(chan error)
		c := open(t, g.load, cache.Options[int, int]{
			LoadMany: func(_ context.Context, keys []int) (map[int]int, error) {
				bulks = append(bulks, keys)
				err := <-release
				found := make(map[int]int)
				for _, k := range keys {
					if k != 99 {
						found[k] = k
					}
				}
				return found, err
			},
			NotFound: isNoRows,
		})
		go c.Get(t.Context(), 1)
		<-g.begun

		type answer struct {
			values map[int]int
			err    error
		}
		many := make(chan answer)
		go func() {
			v, err := c.GetMany(t.Context(), []int{1, 2, 3, 2, 99})
			many <- answer{v, err}
		}()
		synctest.Wait()
		joined := make(chan int)
		go func() { // joins the bulk load
			v, _ := c.Get(t.Context(), 3)
			joined <- v
		}()
		synctest.Wait()
		release <- nil
		if v := <-joined; v != 3 {
			t.Errorf("joined a bulk load and got %d", v)
		}
		g.open <- nil
		got := <-many
		if got.err != nil || len(got.values) != 3 || got.values[1] != 1001 || got.values[2] != 2 || got.values[3] != 3 {
			t.Errorf("got %v, %v", got.values, got.err)
		}
		if len(bulks) != 1 || fmt.Sprint(bulks[0]) != "[2 3 99]" {
			t.Errorf("bulk loads of %v", bulks)
		}
		synctest.Wait() // the first Get has returned
		// All from memory now, the missing one too.
		v, err := c.GetMany(t.Context(), []int{1, 2, 3, 99})
		if err != nil || len(v) != 3 || len(bulks) != 1 {
			t.Errorf("got %v, %v after %d bulk loads", v, err, len(bulks))
		}
		addsUp(t, c, 1+4+1+4)

		failing := errors.New("origin is down")
		go func() { release <- failing }()
		v, err = c.GetMany(t.Context(), []int{1, 50, 51})
		if !errors.Is(err, failing) || len(v) != 1 || v[1] != 1001 {
			t.Errorf("got %v, %v; want what there is and the error", v, err)
		}
	})
}

func TestGetManyWithoutLoadMany(t *testing.T) {
	var running, most atomic.Int64
	c := open(t, func(_ context.Context, key int) (int, error) {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer running.Add(-1)
		runtime.Gosched()
		if key%10 == 0 {
			return 0, errNoRows
		}
		return key, nil
	}, cache.Options[int, int]{NotFound: isNoRows})
	keys := make([]int, 200)
	for i := range keys {
		keys[i] = i
	}
	got, err := c.GetMany(t.Context(), keys)
	if err != nil || len(got) != 180 {
		t.Fatalf("%d values, %v", len(got), err)
	}
	if n := most.Load(); n > 16 {
		t.Errorf("%d loads at a time", n)
	}
	addsUp(t, c, 200)
}

// A single Get of a key that a bulk load did not find asks the loader, which has an error for it.
func TestNamelessNotFound(t *testing.T) {
	c := open(t, func(context.Context, int) (int, error) { return 0, errNoRows }, cache.Options[int, int]{
		LoadMany: func(context.Context, []int) (map[int]int, error) { return nil, nil },
		NotFound: isNoRows,
	})
	if got, err := c.GetMany(t.Context(), []int{1}); err != nil || len(got) != 0 {
		t.Fatal(got, err)
	}
	if _, err := c.Get(t.Context(), 1); err != errNoRows {
		t.Errorf("got %v", err)
	}
}

func TestBoundIsKept(t *testing.T) {
	c := open(t, func(_ context.Context, key int) (int, error) { return key, nil }, cache.Options[int, int]{MaxEntries: 100})
	for key := range 100 {
		c.Get(t.Context(), key)
	}
	eventually(t, "a cache of 100 holds 100", func() bool { return c.Stats().Entries == 100 })
	for key := range 5000 {
		c.Get(t.Context(), key)
	}
	eventually(t, "a cache of 100 holds no more", func() bool { return c.Stats().Entries <= 100 })
}

func TestClose(t *testing.T) {
	g := newGate()
	c := open(t, g.load, cache.Options[int, int]{Remote: newFakeStore().node()})
	ended := make(chan error)
	go func() {
		_, err := c.Get(t.Context(), 1)
		ended <- err
	}()
	ctx := <-g.begun
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, cache.ErrClosed) {
		t.Errorf("a waiter got %v", err)
	}
	if ctx.Err() == nil {
		t.Error("the load goes on")
	}
	_, err := c.Get(t.Context(), 1)
	_, err2 := c.Lookup(t.Context(), 1)
	_, err3 := c.GetMany(t.Context(), []int{1})
	for _, err := range []error{err, err2, err3, c.Invalidate(t.Context(), 1)} {
		if !errors.Is(err, cache.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := cache.New[float64, int]("no spaces", nil, cache.Options[float64, int]{
		TTL: -time.Second, StaleWhileRevalidate: -1, StaleIfError: -1, MaxEntries: -5, LoadTimeout: -1, RemoteTimeout: -1, DisconnectedTTL: -1,
		NegativeTTL: time.Second, SoftTimeout: time.Second, HardTimeout: -1, MaxValueSize: -1, EarlyRefresh: math.NaN(),
	})
	const text = `cache: name = "no spaces": must be 1 to 40 letters, digits, '.', '_' or '-'
cache: load is nil: must be the function that fetches a value
cache: Options.TTL = -1s: must be >= 0 (0 means 1m0s)
cache: Options.StaleWhileRevalidate = -1ns: must be >= 0 (0 means 0s)
cache: Options.StaleIfError = -1ns: must be >= 0 (0 means 0s)
cache: Options.LoadTimeout = -1ns: must be >= 0 (0 means 30s)
cache: Options.HardTimeout = -1ns: must be >= 0 (0 means 0s)
cache: Options.RemoteTimeout = -1ns: must be >= 0 (0 means 250ms)
cache: Options.DisconnectedTTL = -1ns: must be >= 0 (0 means 5s)
cache: Options.MaxEntries = -5: must be >= 0 (0 means 10000)
cache: Options.MaxValueSize = -1: must be >= 0 (0 means 4194304)
cache: Options.EarlyRefresh = NaN: must be a number (0 means 1)
cache: Options.NegativeTTL = 1s: has no effect without NotFound
cache: Options.Key is nil: keys of type float64 need it`
	if err == nil || err.Error() != text {
		t.Errorf("got\n%v\nwant\n%s", err, text)
	}
}
