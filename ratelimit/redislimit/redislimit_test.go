package redislimit

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/ratelimit"
	"github.com/fairlead/fairlead/ratelimit/ratelimittest"
	"github.com/fairlead/fairlead/scale/redisconn"
)

var (
	shared = testenv.Share(func(ctx context.Context) (*testenv.Redis, error) {
		return testenv.StartRedis(ctx, testenv.RedisOptions{})
	})
	cluster = testenv.Share(func(ctx context.Context) (*testenv.RedisCluster, error) {
		return testenv.StartRedisCluster(ctx, testenv.RedisOptions{})
	})
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		os.Exit(play(role))
	}
	os.Exit(testenv.Main(m.Run, shared, cluster))
}

func server(t testing.TB) *testenv.Redis {
	t.Helper()
	r, err := shared.Get()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func connect(t testing.TB, url string) *redisconn.Client {
	t.Helper()
	c, err := redisconn.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

var limiterNames sync.Map // of the running tests

// limiterName is the test's, as far as it makes a name, and another one when the test is run again on the same server.
func limiterName(t testing.TB) string {
	name, again := limiterNames.LoadOrStore(t, strings.ReplaceAll(t.Name()[:min(len(t.Name()), 50)], "/", ".")+"."+rand.Text()[:8])
	if !again {
		t.Cleanup(func() { limiterNames.Delete(t) })
	}
	return name.(string)
}

// limiter has a time budget that no stalled machine exceeds and no fallback, so that only Redis decides.
func limiter(t testing.TB, c *redisconn.Client, limit ratelimit.Limit, change ...func(*ratelimit.Options)) *ratelimit.Limiter {
	t.Helper()
	o := ratelimit.Options{Store: New(c), OnError: ratelimit.Deny, Timeout: time.Minute}
	for _, f := range change {
		f(&o)
	}
	l, err := ratelimit.New(limiterName(t), limit, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestRedisConforms(t *testing.T) {
	c := connect(t, server(t).URL())
	ratelimittest.Run(t, func(*testing.T) ratelimit.Store { return New(c) })
}

// Whatever the clocks of the processes say.
func TestRedisConformsWithWrongClocks(t *testing.T) {
	c := connect(t, server(t).URL())
	for _, skew := range []time.Duration{40 * 24 * time.Hour, -30 * time.Hour} {
		t.Run(skew.String(), func(t *testing.T) {
			t.Parallel()
			ratelimittest.Run(t, func(*testing.T) ratelimit.Store { return &Store{client: c, skew: skew} })
		})
	}
}

func TestClusterConforms(t *testing.T) {
	r, err := cluster.Get()
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, r.URL())
	ratelimittest.Run(t, func(*testing.T) ratelimit.Store { return New(c) })
}

func TestNewReportsANilClient(t *testing.T) {
	_, err := ratelimit.New("x", ratelimit.PerSecond(1), ratelimit.Options{Store: New(nil)})
	if want := "ratelimit: x: Options.Store: redislimit.New: client is nil"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// One decision is one run of the script: one command on the wire, on one key, whatever the limit joins.
func TestADecisionIsOneCommandOnOneKey(t *testing.T) {
	ctx := t.Context()
	r, err := testenv.StartRedis(ctx, testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := connect(t, r.URL())
	hour := func(n int) ratelimit.Limit { return ratelimit.Per(n, time.Hour) }
	l := limiter(t, c, hour(100).And(hour(50)).And(hour(20)))
	if _, err := l.Take(ctx, "first loads the script", 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Redis().FlushDB(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	if err := r.ResetCounts(ctx); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if d, err := l.Take(ctx, "k", 1); err != nil || !d.Allowed {
			t.Fatalf("got %+v, %v", d, err)
		}
	}
	runs, err := r.Calls(ctx, "evalsha")
	if err != nil {
		t.Fatal(err)
	}
	evals, err := r.Calls(ctx, "eval")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := c.Redis().DBSize(ctx).Result()
	if err != nil {
		t.Fatal(err)
	}
	if runs != 20 || evals != 0 || keys != 1 {
		t.Errorf("20 decisions of 3 joined limits: %d evalsha, %d eval, %d keys; want 20, 0, 1", runs, evals, keys)
	}
}

// A client that is refused and asks on costs Redis one command, not one a request.
func TestAnAttackCostsRedisNothing(t *testing.T) {
	ctx := t.Context()
	r, err := testenv.StartRedis(ctx, testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := limiter(t, connect(t, r.URL()), ratelimit.Per(5, time.Hour))
	begin := time.Now()
	for range 10_000 {
		if _, err := l.Take(ctx, "attacker", 1); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(begin)
	runs, err := r.Calls(ctx, "evalsha")
	if err != nil {
		t.Fatal(err)
	}
	// 5 granted, the first refusal, and one more for each second that a refusal is remembered.
	if most := int64(6 + took/time.Second); runs > most || runs < 6 {
		t.Errorf("10000 requests of a key with 5 permits in %v: %d scripts, want 6 to %d", took, runs, most)
	}
	if s := l.Stats(); s.Allowed != 5 || s.Refused != 9995 || s.Remembered != 10_000-uint64(runs) {
		t.Errorf("stats %+v", s)
	}
}

func TestScriptFlushGoesUnnoticed(t *testing.T) {
	ctx := t.Context()
	c := connect(t, server(t).URL())
	l := limiter(t, c, ratelimit.Per(1000, 1000*time.Hour))
	for i := range 50 {
		if i%10 == 5 {
			if err := c.Redis().ScriptFlush(ctx).Err(); err != nil {
				t.Fatal(err)
			}
		}
		d, err := l.Take(ctx, "k", 1)
		if err != nil {
			t.Fatal(err)
		}
		if !d.Allowed || d.Remaining != 999-i {
			t.Fatalf("permit %d: got %+v", i, d)
		}
	}
}

// Keys leave Redis when their bucket has drained, and not before.
func TestKeysExpireWhenDrained(t *testing.T) {
	ctx := t.Context()
	c := connect(t, server(t).URL())
	l := limiter(t, c, ratelimit.Per(10, 10*time.Minute).And(ratelimit.Per(10, 100*time.Minute)))
	if _, err := l.Take(ctx, "k", 3); err != nil {
		t.Fatal(err)
	}
	key := redisKey(limiterName(t), "k")
	ttl, err := c.Redis().PTTL(ctx, key).Result()
	if err != nil {
		t.Fatal(err)
	}
	if ttl > 30*time.Minute+2*time.Millisecond || ttl < 25*time.Minute {
		t.Errorf("3 permits of one in 10 minutes: the key lives for %v, want 30m", ttl)
	}
}

func TestKeysInRedisRevealNothingAndAreBounded(t *testing.T) {
	for _, key := range []string{"secret-token", strings.Repeat("secret-token", 10_000), "", "a}b{c\r\n"} {
		if k := redisKey("login", key); len(k) != len("fairlead:limit:{login:}")+24 || strings.Contains(k, "secret") {
			t.Errorf("key of %d bytes became %q", len(key), k)
		}
	}
}

// What a failed-over or misconfigured server left behind cannot block a key for longer than its limit says.
func TestStoredTimeAheadIsCut(t *testing.T) {
	ctx := t.Context()
	c := connect(t, server(t).URL())
	l := limiter(t, c, ratelimit.PerSecond(50).Burst(10))
	pack := `local t = redis.call('TIME'); local now = t[1]*1000000 + t[2]
		return redis.call('SET', KEYS[1], struct.pack('<ddd', now + tonumber(ARGV[1]), tonumber(ARGV[2]), 20000))`
	_, unit := ratelimit.PerSecond(50).Burst(10).Rules()[0].Units()
	if unit != 20000 {
		t.Fatalf("a permit is %d units, want 20000", unit)
	}
	for name, state := range map[string][2]any{
		"clock an hour ahead, bucket full": {3_600_000_000, 200_000},
		"level a million permits":          {0, 20_000_000_000},
		"both":                             {3_600_000_000, 20_000_000_000},
	} {
		var d ratelimit.Decision
		until(t, "a refusal", func() bool {
			begin := redisTime(t, c)
			if err := c.Redis().Eval(ctx, pack, []string{redisKey(limiterName(t), name)}, state[0], state[1]).Err(); err != nil {
				t.Fatal(err)
			}
			var err error
			if d, err = l.Take(ctx, name, 10); err != nil {
				t.Fatal(err)
			}
			if took := redisTime(t, c).Sub(begin); d.Allowed && took < 200*time.Millisecond {
				t.Fatalf("%s: got %+v after %v, want a refusal", name, d, took)
			}
			return !d.Allowed // else this process was stalled until the bucket had drained
		})
		if d.RetryAfter > 200*time.Millisecond {
			t.Errorf("%s: got %+v, want a refusal of at most 200ms", name, d)
		}
		wait, cancel := context.WithTimeout(ctx, time.Minute)
		for !d.Allowed {
			time.Sleep(d.RetryAfter + time.Millisecond)
			var err error
			if d, err = l.Take(wait, name, 10); err != nil {
				t.Fatalf("%s: never granted again: %v", name, err)
			}
		}
		cancel()
	}
}

func TestWarnsOfEviction(t *testing.T) {
	ctx := t.Context()
	r, err := testenv.StartRedis(ctx, testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := connect(t, r.URL())
	set := func(name, value string) {
		t.Helper()
		if err := c.Redis().ConfigSet(ctx, name, value).Err(); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want string) {
		t.Helper()
		if got := New(c).Warning(ctx); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("got %q, want it to name %q", got, want)
		}
	}
	set("maxmemory", "0")
	set("maxmemory-policy", "allkeys-lru")
	check("")
	set("maxmemory", "100mb")
	check("allkeys-lru")
	set("maxmemory-policy", "volatile-ttl")
	check("volatile-ttl")
	set("maxmemory-policy", "noeviction")
	check("")
}

func TestErrorsOfTheStore(t *testing.T) {
	ctx := t.Context()
	c := connect(t, server(t).URL())
	l := limiter(t, c, ratelimit.PerSecond(50))
	if err := c.Redis().LPush(ctx, redisKey(limiterName(t), "k"), "not a string").Err(); err != nil {
		t.Fatal(err)
	}
	d, err := l.Take(ctx, "k", 1)
	if err == nil || d.Allowed || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("a key of another type under Deny: got %+v, %v", d, err)
	}
	if d, err := l.Take(ctx, "another", 1); err != nil || !d.Allowed {
		t.Errorf("the next key: got %+v, %v", d, err)
	}

	closed := connect(t, server(t).URL())
	l = limiter(t, closed, ratelimit.PerSecond(50))
	closed.Close()
	if _, err := l.Take(ctx, "k", 1); !errors.Is(err, redisconn.ErrClosed) {
		t.Errorf("after Close of the client: got %v, want redisconn.ErrClosed", err)
	}
}
