package ratelimit

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"
	ulule "github.com/ulule/limiter/v3"
	ululememory "github.com/ulule/limiter/v3/drivers/store/memory"
	"golang.org/x/time/rate"

	"github.com/fairlead/fairlead/ratelimit"
)

const roomy = 100_000_000 // a second: nothing is refused

// taker says whether a key may go on.
type taker func(ctx context.Context, key string) bool

// rateMap is what x/time/rate is used with.
type rateMap struct {
	mu sync.Mutex
	m  map[string]*rate.Limiter
}

func (r *rateMap) take(_ context.Context, key string) bool {
	r.mu.Lock()
	l := r.m[key]
	if l == nil {
		l = rate.NewLimiter(roomy, roomy)
		r.m[key] = l
	}
	r.mu.Unlock()
	return l.Allow()
}

func local(b *testing.B) map[string]taker {
	own, err := ratelimit.New("bench", ratelimit.PerSecond(roomy), ratelimit.Options{Store: ratelimit.NewMemory(4 << 20)})
	if err != nil {
		b.Fatal(err)
	}
	memory, err := memstore.NewCtx(0)
	if err != nil {
		b.Fatal(err)
	}
	gcra, err := throttled.NewGCRARateLimiterCtx(memory, throttled.RateQuota{MaxRate: throttled.PerSec(roomy), MaxBurst: roomy})
	if err != nil {
		b.Fatal(err)
	}
	window := ulule.New(ululememory.NewStore(), ulule.Rate{Period: time.Hour, Limit: 1 << 40})
	store, err := memorystore.New(&memorystore.Config{Tokens: 1 << 40, Interval: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		own.Close()
		store.Close(context.Background())
	})
	return map[string]taker{
		"fairlead": func(ctx context.Context, key string) bool {
			d, err := own.Take(ctx, key, 1)
			return err == nil && d.Allowed
		},
		"x-time-rate": (&rateMap{m: map[string]*rate.Limiter{}}).take,
		"throttled": func(ctx context.Context, key string) bool {
			limited, _, err := gcra.RateLimitCtx(ctx, key, 1)
			return err == nil && !limited
		},
		"ulule": func(ctx context.Context, key string) bool {
			c, err := window.Get(ctx, key)
			return err == nil && !c.Reached
		},
		"go-limiter": func(ctx context.Context, key string) bool {
			_, _, _, ok, err := store.Take(ctx, key)
			return err == nil && ok
		},
	}
}

var libraries = []string{"fairlead", "x-time-rate", "throttled", "ulule", "go-limiter"}

func BenchmarkLocalOneKey(b *testing.B) {
	all := local(b)
	for _, name := range libraries {
		take := all[name]
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if !take(ctx, "k") {
					b.Fatal("refused")
				}
			}
		})
	}
}

// Every library holds a million keys, and each request is of another one.
func BenchmarkLocalMillionKeys(b *testing.B) {
	keys := make([]string, 1_000_000)
	for i := range keys {
		keys[i] = "192.0.2." + strconv.Itoa(i)
	}
	for _, name := range libraries {
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			take := local(b)[name]
			for _, key := range keys {
				take(ctx, key)
			}
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				if i += 7919; i >= len(keys) {
					i -= len(keys)
				}
				if !take(ctx, keys[i]) {
					b.Fatal("refused")
				}
			}
		})
	}
}

func BenchmarkLocalParallel(b *testing.B) {
	all := local(b)
	for _, name := range libraries {
		take := all[name]
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			var next atomic.Int64
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				key := fmt.Sprint("k", next.Add(1))
				for pb.Next() {
					if !take(ctx, key) {
						b.Fatal("refused")
					}
				}
			})
		})
	}
}
