package redislimit

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/ratelimit"
)

func BenchmarkTake(b *testing.B) {
	ctx := context.Background()
	roomy := ratelimit.PerSecond(1_000_000)
	for _, c := range []struct {
		name  string
		limit ratelimit.Limit
	}{{"one", roomy}, {"joined-3", roomy.And(roomy).And(roomy)}, {"refused", ratelimit.Per(1, 24*time.Hour)}} {
		b.Run(c.name, func(b *testing.B) {
			l := limiter(b, connect(b, server(b).URL()), c.limit)
			_, _ = l.Take(ctx, "k", 1)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Take(ctx, "k", 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkTakeParallel(b *testing.B) {
	ctx := context.Background()
	l := limiter(b, connect(b, server(b).URL()), ratelimit.PerSecond(1_000_000))
	var next atomic.Int64
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		key := strconv.FormatInt(next.Add(1), 10)
		for pb.Next() {
			if _, err := l.Take(ctx, key, 1); err != nil {
				b.Fatal(err)
			}
		}
	})
}
