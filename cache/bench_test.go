package cache_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/pool/causal"
)

const benchKeys = 10_000

func zipf() []int {
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 1, benchKeys-1)
	keys := make([]int, 1<<16)
	for i := range keys {
		keys[i] = int(z.Uint64())
	}
	return keys
}

func identity(_ context.Context, key int) (int, error) { return key, nil }

// BenchmarkHit reads what is in memory, from all processors, beside bare otter.
func BenchmarkHit(b *testing.B) {
	keys := zipf()
	parallel := func(b *testing.B, get func(int)) {
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for i := rand.IntN(len(keys)); pb.Next(); i++ {
				get(keys[i&(len(keys)-1)])
			}
		})
	}
	b.Run("otter", func(b *testing.B) {
		o := otter.Must(&otter.Options[int, *int]{MaximumSize: 2 * benchKeys})
		for k := range benchKeys {
			o.Set(k, &k)
		}
		parallel(b, func(k int) { o.GetIfPresent(k) })
	})
	scoped, scope := causal.Begin(context.Background())
	scope.Domain("db1").Wrote("0001")
	for _, bb := range []struct {
		name   string
		ctx    context.Context
		remote cache.Remote
	}{
		{"alone", context.Background(), nil},
		{"shared", context.Background(), newFakeStore().node()},
		{"shared, with a scope", scoped, newFakeStore().node()},
	} {
		b.Run(bb.name, func(b *testing.B) {
			c := open(b, identity, cache.Options[int, int]{TTL: time.Hour, MaxEntries: 2 * benchKeys, Remote: bb.remote})
			for !c.Stats().Connected {
				time.Sleep(time.Millisecond)
			}
			for k := range benchKeys {
				c.Get(bb.ctx, k)
			}
			parallel(b, func(k int) { c.Get(bb.ctx, k) })
		})
	}
}

// BenchmarkMiss loads a key nobody has, beside a bare flight.
func BenchmarkMiss(b *testing.B) {
	ctx := context.Background()
	b.Run("singleflight", func(b *testing.B) {
		b.ReportAllocs()
		var g singleflight.Group
		for k := 0; b.Loop(); k++ {
			<-g.DoChan(fmt.Sprint(k), func() (any, error) { return identity(ctx, k) })
		}
	})
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		c := open(b, identity, cache.Options[int, int]{})
		for k := 0; b.Loop(); k++ {
			c.Get(ctx, k)
		}
	})
}
