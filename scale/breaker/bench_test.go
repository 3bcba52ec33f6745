package breaker

import (
	"context"
	"testing"
	"time"

	"github.com/sony/gobreaker/v2"
)

func BenchmarkClosed(b *testing.B) {
	fn := func(context.Context) (int, error) { return 1, nil }
	bare := func() (int, error) { return 1, nil }
	ours := newTest(b, Options{})
	gb := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Interval: 10 * time.Second, BucketPeriod: time.Second})
	b.Run("breaker", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Do(ctx, ours, fn)
		}
	})
	b.Run("gobreaker", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			gb.Execute(bare)
		}
	})
	b.Run("breaker-parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				Do(ctx, ours, fn)
			}
		})
	})
	b.Run("gobreaker-parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				gb.Execute(bare)
			}
		})
	})
}

func BenchmarkOpen(b *testing.B) {
	fn := func(context.Context) (int, error) { return 1, nil }
	ours := newTest(b, Options{MinCalls: 1, OpenFor: time.Hour})
	do(ours, 1, 0, errDown)
	gb := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Timeout: time.Hour, ReadyToTrip: func(gobreaker.Counts) bool { return true }})
	doBare(gb, 1, 0, errDown)
	b.Run("breaker", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			Do(ctx, ours, fn)
		}
	})
	b.Run("gobreaker", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			gb.Execute(func() (int, error) { return 1, nil })
		}
	})
}
