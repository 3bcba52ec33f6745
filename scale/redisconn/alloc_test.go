//go:build !race

package redisconn

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/scale/breaker"
)

// The guard costs a command no allocation, whether it passes or is refused.
func TestGuardDoesNotAllocate(t *testing.T) {
	f := newFake(t)
	ctx := context.Background()
	cmd := redis.NewCmd(ctx)
	guarded := f.ProcessHook(func(context.Context, redis.Cmder) error { return nil })
	if n := testing.AllocsPerRun(1000, func() { guarded(ctx, cmd) }); n != 0 {
		t.Errorf("a call that passes: %v allocations", n)
	}
	f.mode.Store(refusing)
	f.check(false)
	for f.breaker.State() != breaker.Open {
	}
	if n := testing.AllocsPerRun(100, func() { guarded(ctx, cmd) }); n != 0 {
		t.Errorf("a refusal: %v allocations", n)
	}
}

func BenchmarkGuard(b *testing.B) {
	hosts, err := newHosts()
	if err != nil {
		b.Fatal(err)
	}
	s := &server{addr: "r:1", breaker: hosts.For("r:1"), life: newLife()}
	ctx := context.Background()
	cmd := redis.NewCmd(ctx)
	bare := func(context.Context, redis.Cmder) error { return nil }
	guarded := s.ProcessHook(bare)
	b.Run("bare", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			bare(ctx, cmd)
		}
	})
	b.Run("guarded", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			guarded(ctx, cmd)
		}
	})
	b.Run("guarded-parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				guarded(ctx, cmd)
			}
		})
	})
}
