package rediscache_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/cache/rediscache"
	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool/causal"
)

const backstop = time.Minute

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// unique is a name of a cache that no other test has.
func unique() string { return "test-" + rand.Text() }

// node is a cache as another process would have it, with a connection of its own.
func node(t *testing.T, name, url string, load func(context.Context, int) (int, error), o cache.Options[int, int]) *cache.Cache[int, int] {
	t.Helper()
	o.Remote, o.Logger = rediscache.New(open(t, url)), quiet
	if o.RemoteTimeout == 0 {
		o.RemoteTimeout = backstop // a busy machine must not look like an absent Redis
	}
	c, err := cache.New(name, load, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(backstop); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func connected(t *testing.T, caches ...*cache.Cache[int, int]) {
	t.Helper()
	for _, c := range caches {
		eventually(t, "the cache hears invalidations", func() bool { return c.Stats().Connected })
	}
}

func want(t *testing.T, c *cache.Cache[int, int], ctx context.Context, key, value int) {
	t.Helper()
	if got, err := c.Get(ctx, key); err != nil || got != value {
		t.Fatalf("key %d: got %d, %v; want %d", key, got, err, value)
	}
}

// proxied starts a proxy in front of the server and returns the URL through it.
func proxied(t *testing.T, r *testenv.Redis) (*testenv.Proxy, string) {
	t.Helper()
	p, err := testenv.StartProxy(r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, "redis://" + p.Addr() + "/0"
}

// twoWays is a Remote whose bus goes another way than its commands.
type twoWays struct {
	*rediscache.Remote
	bus *rediscache.Remote
}

func (w twoWays) Listen(ctx context.Context, space string, handle func(cache.Event)) error {
	return w.bus.Listen(ctx, space, handle)
}

// counter is an origin: a version a key.
type counter struct {
	values [100]atomic.Int64
	loads  atomic.Int64
}

func (o *counter) load(_ context.Context, key int) (int, error) {
	o.loads.Add(1)
	return int(o.values[key].Load()), nil
}

func TestOneLoadOverTheFleet(t *testing.T) { onEach(t, oneLoadOverTheFleet) }

func oneLoadOverTheFleet(t *testing.T, url string) {
	name := unique()
	var loads atomic.Int64
	var started sync.WaitGroup
	started.Add(2)
	release := make(chan struct{})
	load := func(context.Context, int) (int, error) {
		loads.Add(1)
		<-release
		return 7, nil
	}
	var nodes []*cache.Cache[int, int]
	for range 2 {
		nodes = append(nodes, node(t, name, url, load, cache.Options[int, int]{}))
	}
	const each = 5000
	var wg sync.WaitGroup
	for _, c := range nodes {
		for range each {
			wg.Go(func() {
				if got, err := c.Get(t.Context(), 1); err != nil || got != 7 {
					t.Errorf("got %d, %v", got, err)
				}
			})
		}
	}
	eventually(t, "a load has begun", func() bool { return loads.Load() > 0 })
	close(release)
	wg.Wait()
	if n := loads.Load(); n != 1 {
		t.Errorf("%d loads for %d concurrent misses in two processes, want 1", n, 2*each)
	}
	var gets, misses uint64
	for _, c := range nodes {
		s := c.Stats()
		gets, misses = gets+s.Gets, misses+s.Miss
		if s.Memory+s.Remote+s.Miss+s.Stale+s.Errors != each {
			t.Errorf("stats do not add up to %d: %+v", each, s)
		}
	}
	if gets != 2*each {
		t.Errorf("%d gets counted", gets)
	}
}

// 500 keys at once, cold, over two processes: each is loaded once.
func TestManyKeysAreLoadedOnce(t *testing.T) { onEach(t, manyKeysAreLoadedOnce) }

func manyKeysAreLoadedOnce(t *testing.T, url string) {
	name := unique()
	var loads [500]atomic.Int64
	load := func(_ context.Context, key int) (int, error) {
		loads[key].Add(1)
		runtime.Gosched()
		return key, nil
	}
	var wg sync.WaitGroup
	for range 2 {
		c := node(t, name, url, load, cache.Options[int, int]{})
		for key := range loads {
			wg.Go(func() {
				if got, err := c.Get(t.Context(), key); err != nil || got != key {
					t.Errorf("got %d, %v", got, err)
				}
			})
		}
		wg.Go(func() {
			keys := make([]int, len(loads))
			for i := range keys {
				keys[i] = i
			}
			if got, err := c.GetMany(t.Context(), keys); err != nil || len(got) != len(keys) {
				t.Errorf("got %d values, %v", len(got), err)
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

// deaf is a Remote of a process that hears nothing. It counts renewals of leases.
type deaf struct {
	*rediscache.Remote
	renewals *atomic.Int64
}

func (deaf) Listen(ctx context.Context, _ string, _ func(cache.Event)) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func (r deaf) Get(ctx context.Context, space string, asks []cache.Ask) ([]cache.Record, error) {
	records, err := r.Remote.Get(ctx, space, asks)
	for _, a := range asks {
		if a.Renew {
			r.renewals.Add(1)
		}
	}
	return records, err
}

// A load that goes on renewing its lease after another process has invalidated the key does not get it back.
func TestRenewalAfterInvalidation(t *testing.T) {
	t.Parallel() // it mostly waits
	url, name, o := redisServer(t).URL(), unique(), new(counter)
	o.values[7].Store(1)
	var renewals atomic.Int64
	remote := deaf{rediscache.New(open(t, url)), &renewals}
	begun := make(chan struct{}, 2)
	finish := make(chan struct{})
	a, err := cache.New(name, func(_ context.Context, key int) (int, error) {
		v := int(o.values[key].Load())
		begun <- struct{}{}
		<-finish
		return v, nil
	}, cache.Options[int, int]{Remote: remote, RemoteTimeout: backstop, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	b := node(t, name, url, o.load, cache.Options[int, int]{})
	c := node(t, name, url, o.load, cache.Options[int, int]{})
	connected(t, b, c)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.Get(t.Context(), 7)
	}()
	<-begun
	eventually(t, "the lease is renewed", func() bool { return renewals.Load() > 0 })
	o.values[7].Store(2)
	if err := b.Invalidate(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	n := renewals.Load()
	eventually(t, "it was to be renewed again", func() bool { return renewals.Load() >= n+2 }) // one may have been under way
	close(finish)
	<-ended
	for _, n := range []*cache.Cache[int, int]{c, b, a} {
		want(t, n, t.Context(), 7, 2)
	}
	if s := a.Stats(); s.Refused != 1 {
		t.Errorf("the old value was not refused: %+v", s)
	}
}

// A fill that was under way when its key was invalidated is refused by Redis.
func TestStaleFillIsRefused(t *testing.T) { onEach(t, staleFillIsRefused) }

func staleFillIsRefused(t *testing.T, url string) {
	name := unique()
	var version atomic.Int64
	begun, finish := make(chan int, 1), make(chan struct{})
	slow := func(context.Context, int) (int, error) {
		v := int(version.Load())
		begun <- v
		<-finish
		return v, nil
	}
	quick := func(context.Context, int) (int, error) { return int(version.Load()), nil }
	a := node(t, name, url, slow, cache.Options[int, int]{})
	b := node(t, name, url, quick, cache.Options[int, int]{})
	connected(t, a, b)
	const rounds = 100
	for i := range rounds {
		got := make(chan error)
		go func() {
			_, err := a.Get(t.Context(), i)
			got <- err
		}()
		<-begun
		version.Add(1)
		if err := b.Invalidate(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		finish <- struct{}{}
		if err := <-got; err != nil {
			t.Fatal(err)
		}
		want(t, b, t.Context(), i, int(version.Load()))
	}
	if s := a.Stats(); s.Refused != rounds {
		t.Errorf("%d of %d fills were refused", s.Refused, rounds)
	}
}

// Random rounds of readers and writers on three processes: within a process everybody sees what was invalidated there,
// and whoever carries a writer's scope sees it everywhere.
func TestIntervals(t *testing.T) {
	server := redisServer(t)
	p, busURL := proxied(t, server)
	p.SetDelay(0, 5*time.Millisecond)
	intervals(t, server.URL(), busURL, 200)
}

func TestIntervalsCluster(t *testing.T) {
	url := redisCluster(t).URL()
	intervals(t, url, url, 50)
}

func intervals(t *testing.T, url, busURL string, rounds int) {
	const nodes, keys, steps = 3, 3, 12
	o := new(counter)
	slow := func(ctx context.Context, key int) (int, error) {
		for range mathrand.IntN(3) {
			runtime.Gosched()
		}
		v, err := o.load(ctx, key)
		for range mathrand.IntN(3) {
			runtime.Gosched()
		}
		return v, err
	}
	name := unique()
	var caches []*cache.Cache[int, int]
	for range nodes {
		remote := twoWays{rediscache.New(open(t, url)), rediscache.New(open(t, busURL))}
		c, err := cache.New(name, slow, cache.Options[int, int]{Remote: remote, RemoteTimeout: backstop, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		caches = append(caches, c)
	}
	connected(t, caches...)

	type carried struct {
		token   string
		version int64
	}
	var sure [nodes][keys]atomic.Int64
	var last [keys]atomic.Pointer[carried] // the last writer's scope
	var writing [keys]sync.Mutex
	for round := 0; round < rounds && !t.Failed(); round++ {
		var wg sync.WaitGroup
		for i, c := range caches {
			for range 2 {
				wg.Go(func() {
					for range steps {
						key := mathrand.IntN(keys)
						if mathrand.IntN(3) == 0 {
							writing[key].Lock()
							version := o.values[key].Add(1)
							ctx, _ := causal.Begin(t.Context())
							err := c.Invalidate(ctx, key)
							token, err2 := causal.Token(ctx)
							if err := errors.Join(err, err2); err != nil {
								t.Error(err)
							}
							sure[i][key].Store(version)
							last[key].Store(&carried{token, version})
							writing[key].Unlock()
							continue
						}
						ctx, least := t.Context(), sure[i][key].Load()
						if w := last[key].Load(); w != nil && mathrand.IntN(2) == 0 {
							ctx, _ = causal.AtLeast(ctx, w.token)
							least = max(least, w.version)
						}
						got, err := c.Get(ctx, key)
						if most := o.values[key].Load(); err != nil || int64(got) < least || int64(got) > most {
							t.Errorf("round %d, node %d, key %d: got %d, %v; want %d to %d", round, i, key, got, err, least, most)
							return
						}
					}
				})
			}
		}
		wg.Wait()
	}
	// In the end everybody agrees.
	for i, c := range caches {
		for key := range keys {
			eventually(t, "all messages are delivered", func() bool {
				got, err := c.Get(t.Context(), key)
				return err == nil && int64(got) == o.values[key].Load()
			})
		}
		if s := c.Stats(); s.Errors > 0 || s.RemoteErrors > 0 {
			t.Errorf("node %d: %+v", i, s)
		}
	}
}

// What a key's text is made of does not matter.
func TestHostileKeys(t *testing.T) { onEach(t, hostileKeys) }

func hostileKeys(t *testing.T, url string) {
	name := unique()
	load := func(_ context.Context, key string) (string, error) { return "value of " + key, nil }
	var nodes []*cache.Cache[string, string]
	for range 2 {
		c, err := cache.New(name, load, cache.Options[string, string]{Remote: rediscache.New(open(t, url)), RemoteTimeout: backstop, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		nodes = append(nodes, c)
	}
	long := strings.Repeat("x", 201)
	for _, key := range []string{"", "a", "{a}", "}", "a\x00b", "a b", "1:x", "\n", long, long + "y", "#" + strings.Repeat("0", 64)} {
		for _, c := range nodes {
			if got, err := c.Get(t.Context(), key); err != nil || got != "value of "+key {
				t.Errorf("%q: got %q, %v", key, got, err)
			}
		}
		if err := nodes[0].Invalidate(t.Context(), key); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
	eventually(t, "the other heard all", func() bool { return nodes[1].Stats().Heard == 11 })
}

// Tags and everything, over processes, also one that comes later.
func TestTags(t *testing.T) { onEach(t, tags) }

func tags(t *testing.T, url string) {
	name, o := unique(), new(counter)
	options := cache.Options[int, int]{TTL: time.Hour, Meta: func(key, _ int) cache.Meta {
		return cache.Meta{Tags: []string{[]string{"even", "odd"}[key%2], "n}:{\x00"}}
	}}
	a, b := node(t, name, url, o.load, options), node(t, name, url, o.load, options)
	connected(t, a, b)
	all := func(nodes []*cache.Cache[int, int], loads int64) {
		t.Helper()
		before := o.loads.Load()
		for _, c := range nodes {
			for key := range 10 {
				eventually(t, "the value is right", func() bool {
					got, err := c.Get(t.Context(), key)
					return err == nil && int64(got) == o.values[key].Load()
				})
			}
		}
		// A load that begins just between what a message does, values made useless and then the clock moved on, is not known by its
		// record to be so new, and the next process loads again.
		if n := o.loads.Load() - before; n < loads || n > 2*loads {
			t.Fatalf("%d loads, want %d", n, loads)
		}
	}
	change := func(parity int, invalidate func() error) {
		t.Helper()
		for key := range 10 {
			if parity < 0 || key%2 == parity {
				o.values[key].Add(1)
			}
		}
		if err := invalidate(); err != nil {
			t.Fatal(err)
		}
	}
	both := []*cache.Cache[int, int]{a, b}
	all(both, 10)
	all(both, 0)
	change(0, func() error { return a.InvalidateTag(t.Context(), "even") })
	all(both, 5)
	change(1, func() error { return b.InvalidateTag(t.Context(), "odd", "unknown") })
	all(both, 5)
	change(-1, func() error { return a.InvalidateTag(t.Context(), "n}:{\x00") })
	all(both, 10)
	change(-1, func() error { return b.InvalidateAll(t.Context()) })
	all(both, 10)
	late := node(t, name, url, o.load, options)
	connected(t, late)
	all([]*cache.Cache[int, int]{late}, 0)
	change(0, func() error { return a.InvalidateTag(t.Context(), "even") })
	later := node(t, name, url, o.load, options)
	connected(t, later)
	all([]*cache.Cache[int, int]{later}, 5)
	all([]*cache.Cache[int, int]{a, b, late}, 0)
}
