package ratelimit

import (
	"context"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/goredisstore.v9"
	ulule "github.com/ulule/limiter/v3"
	ululeredis "github.com/ulule/limiter/v3/drivers/store/redis"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/ratelimit"
	"github.com/fairlead/fairlead/ratelimit/redislimit"
	"github.com/fairlead/fairlead/scale/redisconn"
)

var server = testenv.Share(func(ctx context.Context) (*testenv.Redis, error) {
	return testenv.StartRedis(ctx, testenv.RedisOptions{})
})

func TestMain(m *testing.M) { os.Exit(testenv.Main(m.Run, server)) }

// trips counts round trips.
type trips struct{ n atomic.Int64 }

func (t *trips) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (t *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		t.n.Add(1)
		return next(ctx, cmd)
	}
}

func (t *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		t.n.Add(1)
		return next(ctx, cmds)
	}
}

// overRedis are limiters on one Redis that grant perHour an hour.
func overRedis(b *testing.B, perHour int) (map[string]taker, *trips) {
	r, err := server.Get()
	if err != nil {
		b.Fatal(err)
	}
	client := redis.NewClient(&redis.Options{Addr: r.Addr(), ContextTimeoutEnabled: true})
	b.Cleanup(func() { client.Close() })
	if err := client.FlushAll(b.Context()).Err(); err != nil {
		b.Fatal(err)
	}
	count := new(trips)
	client.AddHook(count)
	guarded, err := redisconn.New(client)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { guarded.Close() })
	own := func(name string, lease time.Duration) taker {
		l, err := ratelimit.New(name, ratelimit.Per(perHour, time.Hour), ratelimit.Options{
			Store: redislimit.New(guarded), Lease: lease, Timeout: time.Minute, OnError: ratelimit.Deny,
		})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Close() })
		return func(ctx context.Context, key string) bool {
			d, err := l.Take(ctx, key, 1)
			if err != nil {
				b.Fatal(err)
			}
			return d.Allowed
		}
	}
	cas, err := goredisstore.NewCtx(client, "throttled:")
	if err != nil {
		b.Fatal(err)
	}
	gcra, err := throttled.NewGCRARateLimiterCtx(cas, throttled.RateQuota{MaxRate: throttled.PerHour(perHour), MaxBurst: perHour})
	if err != nil {
		b.Fatal(err)
	}
	windows, err := ululeredis.NewStore(client)
	if err != nil {
		b.Fatal(err)
	}
	window := ulule.New(windows, ulule.Rate{Period: time.Hour, Limit: int64(perHour)})
	lua := redis_rate.NewLimiter(client)
	return map[string]taker{
		"fairlead":        own("exact", 0),
		"fairlead-leased": own("leased", 250*time.Millisecond),
		"redis_rate": func(ctx context.Context, key string) bool {
			res, err := lua.Allow(ctx, key, redis_rate.PerHour(perHour))
			if err != nil {
				b.Fatal(err)
			}
			return res.Allowed > 0
		},
		"throttled": func(ctx context.Context, key string) bool {
			limited, _, err := gcra.RateLimitCtx(ctx, key, 1)
			if err != nil {
				b.Fatal(err)
			}
			return !limited
		},
		"ulule": func(ctx context.Context, key string) bool {
			c, err := window.Get(ctx, key)
			if err != nil {
				b.Fatal(err)
			}
			return !c.Reached
		},
	}, count
}

var onRedis = []string{"fairlead", "fairlead-leased", "redis_rate", "throttled", "ulule"}

func benchRedis(b *testing.B, perHour int, want bool) {
	all, count := overRedis(b, perHour)
	for _, name := range onRedis {
		take := all[name]
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			for take(ctx, "k") != want { // uses it up where a refusal is wanted
			}
			before, n := count.n.Load(), 0
			b.ReportAllocs()
			for b.Loop() {
				if take(ctx, "k") != want {
					b.Fatal("decided otherwise")
				}
				n++
			}
			b.ReportMetric(float64(count.n.Load()-before)/float64(n), "trips/op")
		})
	}
}

func BenchmarkRedisGranted(b *testing.B) { benchRedis(b, 1_000_000_000, true) }

func BenchmarkRedisRefused(b *testing.B) { benchRedis(b, 1, false) }
