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

	"github.com/redis/go-redis/v9"

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

func TestOneLoadOverTheFleet(t *testing.T) {
	url, name := redisServer(t).URL(), unique()
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
func TestManyKeysAreLoadedOnce(t *testing.T) {
	url, name := redisServer(t).URL(), unique()
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

// Who wrote reads it on another process whose messages are late; others do not.
func TestOwnWritesWithTheBusDelayed(t *testing.T) {
	const pairs = 2000
	server, name, o := redisServer(t), unique(), new(counter)
	p, busURL := proxied(t, server)
	a := node(t, name, server.URL(), o.load, cache.Options[int, int]{})
	remote := twoWays{rediscache.New(open(t, server.URL())), rediscache.New(open(t, busURL))}
	b, err := cache.New(name, o.load, cache.Options[int, int]{Remote: remote, RemoteTimeout: backstop, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	connected(t, a, b)
	p.SetDelay(0, 500*time.Millisecond)

	stale := 0
	for i := range pairs {
		key := i % len(o.values)
		b.Get(t.Context(), key)
		version := int(o.values[key].Add(1))
		ctx, _ := causal.Begin(t.Context())
		if err := a.Invalidate(ctx, key); err != nil {
			t.Fatal(err)
		}
		token, err := causal.Token(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := b.Get(t.Context(), key); err != nil {
			t.Fatal(err)
		} else if got != version {
			stale++
		}
		next, err := causal.AtLeast(t.Context(), token) // the writer's next request
		if err != nil {
			t.Fatal(err)
		}
		want(t, b, next, key, version)
	}
	s := b.Stats()
	t.Logf("without the token %d of %d reads were stale; with it none, and %d of them passed memory by", stale, pairs, s.OwnWrites)
	if stale < pairs/10 {
		t.Errorf("without the token only %d of %d reads were stale: this test tests nothing", stale, pairs)
	}
	if s.OwnWrites > pairs {
		t.Errorf("%d reads passed memory by, more than the writer's %d", s.OwnWrites, pairs)
	}
}

func TestRestartedEmpty(t *testing.T) {
	server, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	name, o := unique(), new(counter)
	options := cache.Options[int, int]{RemoteTimeout: 5 * time.Second}
	a := node(t, name, server.URL(), o.load, options)
	b := node(t, name, server.URL(), o.load, options)
	connected(t, a, b)
	want(t, a, t.Context(), 1, 0)
	want(t, b, t.Context(), 1, 0)
	server.Kill()
	eventually(t, "both notice", func() bool { return !a.Stats().Connected && !b.Stats().Connected })

	// Without Redis: hits, misses, and an invalidation that is kept for later.
	want(t, a, t.Context(), 1, 0)
	want(t, a, t.Context(), 2, 0)
	o.values[1].Store(1)
	ctx, _ := causal.Begin(t.Context())
	if err := a.Invalidate(ctx, 1); err == nil {
		t.Error("Invalidate says that Redis confirmed")
	}
	want(t, a, ctx, 1, 1)
	want(t, b, ctx, 1, 1) // who wrote it, elsewhere

	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are back and all is sent", func() bool {
		return a.Stats().Connected && b.Stats().Connected && a.Stats().Pending == 0
	})
	want(t, a, t.Context(), 1, 1)
	eventually(t, "the others see it", func() bool {
		got, err := b.Get(t.Context(), 1)
		return err == nil && got == 1
	})
	o.values[2].Store(5)
	if err := b.Invalidate(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bus works again", func() bool {
		got, err := a.Get(t.Context(), 2)
		return err == nil && got == 5
	})
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

// A server that restarts with the clock it had may have lost what came after: it counts anew.
func TestRestartBeginsAnIncarnation(t *testing.T) {
	server, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{Settings: map[string]string{"appendonly": "yes", "appendfsync": "always"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	r := rediscache.New(open(t, server.URL()))
	invalidate := func() (ev cache.Event) {
		eventually(t, "Redis answers", func() bool {
			ev, err = r.Invalidate(t.Context(), "restarted", cache.Invalidation{Keys: []string{"k"}})
			return err == nil
		})
		return ev
	}
	invalidate()
	before := invalidate()
	server.Kill()
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := invalidate()
	if before.N < 2 || after.Incarnation <= before.Incarnation || len(after.Incarnation) != len(before.Incarnation) || after.N >= before.N {
		t.Errorf("the clock went from %+v to %+v", before, after)
	}
	if again := invalidate(); again.Incarnation != after.Incarnation || again.N != after.N+1 {
		t.Errorf("the clock went from %+v to %+v", after, again)
	}
}

// Killing the connection that messages come by loses messages, and the cache notices.
func TestBusConnectionKilled(t *testing.T) {
	server, name, o := redisServer(t), unique(), new(counter)
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { client.Close() })
	a := node(t, name, server.URL(), o.load, cache.Options[int, int]{TTL: time.Hour})
	b := node(t, name, server.URL(), o.load, cache.Options[int, int]{TTL: time.Hour})
	connected(t, a, b)
	for round := range 20 {
		want(t, b, t.Context(), 1, round)
		losses := b.Stats().Losses
		killed, err := client.Do(t.Context(), "CLIENT", "KILL", "TYPE", "pubsub").Int()
		if err != nil || killed == 0 {
			t.Fatal(killed, err)
		}
		o.values[1].Add(1)
		if err := a.Invalidate(t.Context(), 1); err != nil { // published while nobody listens
			t.Fatal(err)
		}
		eventually(t, "the loss is noticed and made good", func() bool { return b.Stats().Losses > losses && b.Stats().Connected })
		want(t, b, t.Context(), 1, round+1)
		connected(t, a)
	}
}

// A connection that swallows everything gives no error; the beacon is missed.
func TestBusHalfOpen(t *testing.T) {
	server, name, o := redisServer(t), unique(), new(counter)
	p, busURL := proxied(t, server)
	a := node(t, name, server.URL(), o.load, cache.Options[int, int]{TTL: time.Hour})
	remote := twoWays{rediscache.New(open(t, server.URL())), rediscache.New(open(t, busURL))}
	b, err := cache.New(name, o.load, cache.Options[int, int]{Remote: remote, RemoteTimeout: backstop, TTL: time.Hour, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	connected(t, a, b)
	want(t, b, t.Context(), 1, 0)
	p.BlackHole(true)
	o.values[1].Store(1)
	if err := a.Invalidate(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Get(t.Context(), 1); err != nil || got != 0 && b.Stats().Connected {
		t.Errorf("got %d, %v before the silence could be noticed: it is not one", got, err)
	}
	eventually(t, "the silence is noticed", func() bool { return !b.Stats().Connected })
	want(t, b, t.Context(), 1, 1) // Redis is asked first
	p.BlackHole(false)
	p.Cut()
	connected(t, b)
}

func TestForgottenScriptsAndFlush(t *testing.T) {
	server, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { client.Close() })
	name, o := unique(), new(counter)
	a := node(t, name, server.URL(), o.load, cache.Options[int, int]{})
	b := node(t, name, server.URL(), o.load, cache.Options[int, int]{})
	connected(t, a, b)
	for i := range 5 {
		want(t, a, t.Context(), 1, i)
		want(t, b, t.Context(), 1, i)
		if i%2 == 0 {
			if err := client.FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if err := client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		o.values[1].Add(1)
		ctx, _ := causal.Begin(t.Context())
		if err := a.Invalidate(ctx, 1); err != nil {
			t.Fatal(err)
		}
		want(t, b, ctx, 1, i+1)
		eventually(t, "others see it", func() bool {
			got, err := b.Get(t.Context(), 1)
			return err == nil && got == i+1
		})
	}
}

// A fill that was under way when its key was invalidated is refused by Redis.
func TestStaleFillIsRefused(t *testing.T) {
	url, name := redisServer(t).URL(), unique()
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
	const nodes, keys, steps, rounds = 3, 3, 12, 80
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
		remote := twoWays{rediscache.New(open(t, server.URL())), rediscache.New(open(t, busURL))}
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
func TestHostileKeys(t *testing.T) {
	url, name := redisServer(t).URL(), unique()
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
