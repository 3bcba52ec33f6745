package rediscache_test

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/cache/rediscache"
	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool/causal"
)

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
	t.Parallel() // it mostly waits
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

// A server that comes back from an old snapshot has values that were invalidated since, and nothing of the invalidations. Each
// process sends its own of the last minute again.
func TestRestartedFromOldSnapshot(t *testing.T) {
	server, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	client := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { client.Close() })
	name, o := unique(), new(counter)
	options := cache.Options[int, int]{RemoteTimeout: 5 * time.Second, TTL: time.Hour, Meta: func(key, _ int) cache.Meta {
		return cache.Meta{Tags: []string{[]string{"even", "odd"}[key%2]}}
	}}
	a, b := node(t, name, server.URL(), o.load, options), node(t, name, server.URL(), o.load, options)
	connected(t, a, b)
	for key := range 6 {
		want(t, a, t.Context(), key, 0)
		want(t, b, t.Context(), key, 0)
	}
	if err := client.Save(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	for key := range 4 { // 4 and 5 stay as they are
		o.values[key].Store(1)
	}
	o.values[4].Store(1)
	for _, err := range []error{a.Invalidate(t.Context(), 1), b.Invalidate(t.Context(), 3), a.InvalidateTag(t.Context(), "even")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	server.Kill()
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both have told what it lost", func() bool {
		sa, sb := a.Stats(), b.Stats()
		return sa.Connected && sb.Connected && sa.Pending+sb.Pending == 0 && sa.Replayed >= 2 && sb.Replayed >= 1
	})
	late := node(t, name, server.URL(), o.load, options)
	connected(t, late)
	for _, c := range []*cache.Cache[int, int]{a, b, late} {
		for key := range 6 {
			eventually(t, "the value is right", func() bool {
				got, err := c.Get(t.Context(), key)
				if err != nil {
					t.Error(err)
				}
				return int64(got) == o.values[key].Load()
			})
			want(t, c, t.Context(), key, int(o.values[key].Load())) // and stays so
		}
	}
}

// A server that is stopped answers nothing and refuses nothing.
func TestFrozen(t *testing.T) {
	t.Parallel() // it mostly waits
	server, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	name, o := unique(), new(counter)
	options := cache.Options[int, int]{RemoteTimeout: 250 * time.Millisecond, TTL: time.Hour}
	a, b := node(t, name, server.URL(), o.load, options), node(t, name, server.URL(), o.load, options)
	connected(t, a, b)
	want(t, a, t.Context(), 1, 0)
	want(t, b, t.Context(), 1, 0)
	want(t, b, t.Context(), 2, 0)
	if err := server.Freeze(); err != nil {
		t.Fatal(err)
	}
	hits, loads := a.Stats().Memory, o.loads.Load()
	for range 1000 {
		want(t, a, t.Context(), 1, 0)
	}
	if n := a.Stats().Memory - hits; n == 0 || o.loads.Load() > loads+1 { // the loss may be noticed meanwhile
		t.Errorf("%d hits and %d loads", n, o.loads.Load()-loads)
	}
	for key := 10; key < 20; key++ {
		want(t, a, t.Context(), key, 0)
	}
	o.values[1].Store(1)
	ctx, _ := causal.Begin(t.Context())
	if err := a.Invalidate(ctx, 1); err == nil {
		t.Error("Invalidate says that Redis confirmed")
	}
	want(t, a, t.Context(), 1, 1)
	want(t, b, ctx, 1, 1)
	eventually(t, "both notice", func() bool { return !a.Stats().Connected && !b.Stats().Connected })
	o.values[2].Store(1)
	eventually(t, "memory is not trusted for ever", func() bool {
		got, err := b.Get(t.Context(), 2)
		if err != nil {
			t.Fatal(err)
		}
		return got == 1
	})
	if err := server.Thaw(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all is sent", func() bool {
		return a.Stats().Connected && b.Stats().Connected && a.Stats().Pending == 0
	})
	eventually(t, "the other sees it", func() bool {
		got, err := b.Get(t.Context(), 1)
		return err == nil && got == 1
	})
	o.values[1].Store(2)
	if err := b.Invalidate(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bus works again", func() bool {
		got, err := a.Get(t.Context(), 1)
		return err == nil && got == 2
	})
}

// On Cluster a server that restarts empty may have had records, leases or tokens of any key, whoever holds the clock.
func TestShardRestart(t *testing.T) {
	t.Parallel() // it mostly waits
	cluster, err := testenv.StartRedisCluster(t.Context(), testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Close() })
	name, o := unique(), new(counter)
	client := open(t, cluster.URL())
	clock, err := client.Redis().(*redis.ClusterClient).MasterForKey(t.Context(), "cache:{"+name+"}")
	if err != nil {
		t.Fatal(err)
	}
	c := node(t, name, cluster.URL(), o.load, cache.Options[int, int]{TTL: time.Hour})
	connected(t, c)
	want(t, c, t.Context(), 1, 0)
	remote := rediscache.New(client)
	invalidate := func() (ev cache.Event) {
		eventually(t, "the Cluster answers", func() bool {
			ev, err = remote.Invalidate(t.Context(), name, cache.Invalidation{Tags: []string{"t"}, StampTTL: time.Minute})
			return err == nil
		})
		return ev
	}
	before := invalidate()
	eventually(t, "the servers are known", func() bool {
		n, err := clock.HExists(t.Context(), "cache:{"+name+"}", "primaries").Result()
		return err == nil && n
	})
	if again := invalidate(); again.Incarnation != before.Incarnation {
		t.Fatalf("the clock went from %+v to %+v though nothing happened", before, again)
	}
	if err := c.Invalidate(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, n := range cluster.Nodes {
		if n.Addr() != clock.Options().Addr {
			n.Kill()
			if err := n.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	eventually(t, "a new incarnation begins", func() bool { return invalidate().Incarnation > before.Incarnation })
	eventually(t, "the cache sends its invalidations again", func() bool { s := c.Stats(); return s.Replayed > 0 && s.Pending == 0 })
	last := invalidate()
	time.Sleep(2 * time.Second) // a few beacons
	if again := invalidate(); again.Incarnation != last.Incarnation {
		t.Errorf("the clock goes on from %+v to %+v", last, again)
	}
}
