package redisconn_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/scale/redisconn"
)

var shared *testenv.Redis

func TestMain(m *testing.M) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	var err error
	if shared, err = testenv.StartRedis(ctx, testenv.RedisOptions{}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cancel()
	code := m.Run()
	shared.Close()
	os.Exit(code)
}

func open(t *testing.T, url string) *redisconn.Client {
	t.Helper()
	c, err := redisconn.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestOpenUnderstandsEveryKindOfRedis(t *testing.T) {
	for url, want := range map[string]string{
		"redis://127.0.0.1:6379/2":                           "*redis.Client",
		"rediss://user:secret@example.org:6380":              "*redis.Client",
		"unix:///run/redis.sock?db=1":                        "*redis.Client",
		"redis://h1:26379,h2:26379/0?master_name=main":       "*redis.Client",
		"redis://h1:1,h2:2,h3:3":                             "*redis.ClusterClient",
		"redis://user:p@h1:1,h2:2/?pool_size=5":              "*redis.ClusterClient",
		"redis://h1:1?cluster=true&dial_timeout=2s":          "*redis.ClusterClient",
		"redis://h1:1?addr=h2:2":                             "*redis.ClusterClient",
		"redis://user:a%2Cb@h1:6379/0?read_timeout=1s":       "*redis.Client",
		"redis://s1:26379/1?master_name=main&addr=s2%3A2637": "*redis.Client",
	} {
		c, err := redisconn.Open(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if got := fmt.Sprintf("%T", c.Redis()); got != want {
			t.Errorf("%s is a %s, want %s", url, got, want)
		}
		switch r := c.Redis().(type) {
		case *redis.Client:
			if !r.Options().ContextTimeoutEnabled {
				t.Errorf("%s: deadlines are off", url)
			}
		case *redis.ClusterClient:
			if !r.Options().ContextTimeoutEnabled {
				t.Errorf("%s: deadlines are off", url)
			}
			if n := strings.Count(url, ",") + strings.Count(url, "addr=") + 1; len(r.Options().Addrs) != n {
				t.Errorf("%s: %v, want %d nodes", url, r.Options().Addrs, n)
			}
		}
		c.Close()
	}
}

func TestABadURLIsRefusedWithoutItsPassword(t *testing.T) {
	for _, url := range []string{
		"", "localhost:6379", "http://user:secret@h", "redis://user:secret@h:port", "redis://:secret@h/x", "redis://:secret@h?nonsense=1",
		"redis://:secret@h1:1,h2:2?read_only=true", "redis://:secret@h1?master_name=m&replica_only=true",
	} {
		c, err := redisconn.Open(url)
		if err == nil {
			t.Errorf("%s was taken: %T", url, c.Redis())
			continue
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the password: %v", err)
		}
	}
}

func TestNewNamesEveryFieldThatDoesNotFit(t *testing.T) {
	single := redis.NewClient(&redis.Options{})
	defer single.Close()
	if _, err := redisconn.New(single); err == nil || !strings.Contains(err.Error(), "Options.ContextTimeoutEnabled") {
		t.Errorf("err = %v", err)
	}
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, RouteByLatency: true, RouteRandomly: true})
	defer cluster.Close()
	_, err := redisconn.New(cluster)
	for _, field := range []string{"ContextTimeoutEnabled", "RouteByLatency", "RouteRandomly"} {
		if err == nil || !strings.Contains(err.Error(), "ClusterOptions."+field) {
			t.Errorf("%s is not named: %v", field, err)
		}
	}
	readOnly := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}, ReadOnly: true, ContextTimeoutEnabled: true})
	defer readOnly.Close()
	if _, err := redisconn.New(readOnly); err == nil || !strings.Contains(err.Error(), "ClusterOptions.ReadOnly") {
		t.Errorf("err = %v", err)
	}
	ring := redis.NewRing(&redis.RingOptions{})
	defer ring.Close()
	for _, c := range []redis.UniversalClient{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil), ring} {
		if _, err := redisconn.New(c); err == nil {
			t.Errorf("%T was taken", c)
		}
	}
}

var add = redisconn.NewScript(`return redis.call('INCRBY', KEYS[1], ARGV[1])`)

func TestScriptsOutliveScriptFlush(t *testing.T) {
	c, ctx := open(t, shared.URL()), t.Context()
	flush := func() {
		if err := c.Redis().ScriptFlush(ctx).Err(); err != nil {
			t.Fatal(err)
		}
	}
	want := int64(0)
	for range 2 {
		flush()
		want++
		if got, err := c.Run(ctx, add, []string{"flush"}, 1).Int64(); err != nil || got != want {
			t.Fatalf("Run = %d, %v; want %d", got, err, want)
		}
		flush()
		var first, second *redis.Cmd
		var get *redis.StringCmd
		err := c.Pipeline(ctx, func(p redis.Pipeliner) {
			first = add.Queue(ctx, p, []string{"flush"}, 10)
			get = p.Get(ctx, "missing")
			second = add.Queue(ctx, p, []string{"flush"}, 100)
		})
		if !errors.Is(err, redis.Nil) || !errors.Is(get.Err(), redis.Nil) {
			t.Fatalf("Pipeline: %v, want the missing key's", err)
		}
		a, errA := first.Int64()
		b, errB := second.Int64()
		if errA != nil || errB != nil || a != want+10 || b != want+110 {
			t.Fatalf("pipelined: %d (%v), %d (%v); want %d and %d", a, errA, b, errB, want+10, want+110)
		}
		want = b
	}
	if n := c.Stats().ScriptReloads; n != 2 {
		t.Errorf("ScriptReloads = %d", n)
	}
}

// answer runs a script and a pipeline of two and returns their errors.
func answer(ctx context.Context, c *redisconn.Client) (run, pipeline, queued error) {
	var cmd *redis.Cmd
	run = c.Run(ctx, add, []string{"x"}, 1).Err()
	pipeline = c.Pipeline(ctx, func(p redis.Pipeliner) { cmd = add.Queue(ctx, p, []string{"x"}, 1) })
	if cmd != nil {
		queued = cmd.Err()
	}
	return run, pipeline, queued
}

func TestAnUnreachableRedisIsErrUnavailable(t *testing.T) {
	own, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	c := open(t, own.URL())
	check := func(when string, ctx context.Context) {
		t.Helper()
		run, pipeline, queued := answer(ctx, c)
		for _, err := range []error{run, pipeline, queued} {
			if !errors.Is(err, redisconn.ErrUnavailable) {
				t.Errorf("%s: %v, want ErrUnavailable", when, err)
			}
		}
	}
	if run, pipeline, queued := answer(t.Context(), c); errors.Join(run, pipeline, queued) != nil {
		t.Fatal(run, pipeline, queued)
	}

	if err := own.Freeze(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	check("frozen", short)
	t.Logf("a frozen server answered a 50 ms budget after %v", time.Since(began))
	if err := own.Thaw(); err != nil {
		t.Fatal(err)
	}

	if err := own.Kill(); err != nil {
		t.Fatal(err)
	}
	check("killed", t.Context())
	if got := c.Stats().Unavailable; got != 4 {
		t.Errorf("Stats().Unavailable = %d, want 4 of the 4 calls", got)
	}
	if err := own.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "the restarted server to be asked again", func() bool { return c.Run(t.Context(), add, []string{"x"}, 1).Err() == nil })
	if run, pipeline, _ := answer(t.Context(), c); run != nil || pipeline != nil {
		t.Errorf("after the restart: %v, %v", run, pipeline)
	}
}

func TestErrorsOfCommandsAndCallersPassThrough(t *testing.T) {
	c := open(t, shared.URL())
	bad := redisconn.NewScript(`return redis.call('INCR', KEYS[1], 'too', 'many')`)
	if err := c.Run(t.Context(), bad, []string{"x"}).Err(); err == nil || errors.Is(err, redisconn.ErrUnavailable) {
		t.Errorf("a wrong script: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(gone, add, []string{"x"}, 1).Err(); !errors.Is(err, context.Canceled) || errors.Is(err, redisconn.ErrUnavailable) {
		t.Errorf("a caller that left: %v", err)
	}
}

func TestClose(t *testing.T) {
	mine := redis.NewClient(&redis.Options{Addr: shared.Addr(), ContextTimeoutEnabled: true})
	defer mine.Close()
	c, err := redisconn.New(mine)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*redisconn.Client{c, open(t, shared.URL())} {
		if err := errors.Join(c.Close(), c.Close()); err != nil {
			t.Fatal(err)
		}
		run, pipeline, _ := answer(t.Context(), c)
		if !errors.Is(run, redisconn.ErrClosed) || !errors.Is(pipeline, redisconn.ErrClosed) {
			t.Errorf("after Close: %v, %v", run, pipeline)
		}
	}
	if err := mine.Ping(t.Context()).Err(); err != nil {
		t.Errorf("the application's own client was closed: %v", err)
	}
}

func TestCluster(t *testing.T) {
	cluster, err := testenv.StartRedisCluster(t.Context(), testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	c, ctx := open(t, cluster.URL()), t.Context()
	if _, ok := c.Redis().(*redis.ClusterClient); !ok {
		t.Fatalf("%s is not a Cluster URL", cluster.URL())
	}
	keys := []string{"a", "b", "c", "d"} // slots on all three nodes
	for round := int64(1); round <= 2; round++ {
		cmds := make([]*redis.Cmd, len(keys))
		if err := c.Pipeline(ctx, func(p redis.Pipeliner) {
			for i, k := range keys {
				cmds[i] = add.Queue(ctx, p, []string{k}, 1)
			}
		}); err != nil {
			t.Fatal(err)
		}
		for i, cmd := range cmds {
			if n, err := cmd.Int64(); err != nil || n != round {
				t.Errorf("round %d: %s = %d, %v", round, keys[i], n, err)
			}
		}
	}
	if n, err := c.Run(ctx, add, []string{"a"}, 1).Int64(); err != nil || n != 3 {
		t.Errorf("Run = %d, %v", n, err)
	}
}

func ExampleClient_Run() {
	rdb, err := redisconn.Open(shared.URL())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer rdb.Close()
	// Kept in a package variable, so that its digest is computed once.
	highest := redisconn.NewScript(`
		local old = tonumber(redis.call('GET', KEYS[1]) or '0')
		if tonumber(ARGV[1]) > old then redis.call('SET', KEYS[1], ARGV[1]); return tonumber(ARGV[1]) end
		return old`)
	ctx := context.Background()
	for _, score := range []int{7, 12, 9} {
		best, err := rdb.Run(ctx, highest, []string{"best"}, score).Int()
		fmt.Println(best, err)
	}
	// Output:
	// 7 <nil>
	// 12 <nil>
	// 12 <nil>
}
