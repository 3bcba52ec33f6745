package breaker

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sony/gobreaker/v2"

	"github.com/fairlead/fairlead/scale/breaker"
)

var errDown = errors.New("down")

type call func(ctx context.Context) error

func succeed(context.Context) (int, error) { return 1, nil }

// breakers returns each library's, with a window of 10 s and a threshold of half of 20 calls, open if so wanted.
func breakers(b *testing.B, open bool) map[string]call {
	own, err := breaker.New("bench", breaker.Options{})
	if err != nil {
		b.Fatal(err)
	}
	rolling := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{
		Interval: 10 * time.Second, BucketPeriod: time.Second, Timeout: time.Hour,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.Requests >= 20 && c.TotalFailures*2 >= c.Requests },
	})
	single := gobreaker.NewCircuitBreaker[int](gobreaker.Settings{Timeout: time.Hour})
	timed := circuitbreaker.NewBuilder[int]().WithFailureRateThreshold(0.5, 20, 10*time.Second).WithDelay(time.Hour).Build()
	executor := failsafe.With[int](timed)
	if open {
		own.Force(breaker.Open)
		timed.Open()
		for range 20 {
			_, _ = rolling.Execute(func() (int, error) { return 0, errDown })
			_, _ = single.Execute(func() (int, error) { return 0, errDown })
		}
	}
	return map[string]call{
		"fairlead": func(ctx context.Context) error {
			_, err := breaker.Do(ctx, own, succeed)
			return err
		},
		"gobreaker-rolling": func(ctx context.Context) error {
			_, err := rolling.Execute(func() (int, error) { return succeed(ctx) })
			return err
		},
		"gobreaker": func(ctx context.Context) error {
			_, err := single.Execute(func() (int, error) { return succeed(ctx) })
			return err
		},
		"failsafe-go": func(ctx context.Context) error {
			_, err := executor.WithContext(ctx).Get(func() (int, error) { return succeed(ctx) })
			return err
		},
	}
}

var libraries = []string{"fairlead", "gobreaker", "gobreaker-rolling", "failsafe-go"}

func bench(b *testing.B, open, parallel bool) {
	all := breakers(b, open)
	for _, name := range libraries {
		do := all[name]
		b.Run(name, func(b *testing.B) {
			ctx := context.Background()
			check := func() {
				if err := do(ctx); (err != nil) != open {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			if parallel {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						check()
					}
				})
				return
			}
			for b.Loop() {
				check()
			}
		})
	}
}

func BenchmarkClosed(b *testing.B)         { bench(b, false, false) }
func BenchmarkClosedParallel(b *testing.B) { bench(b, false, true) }
func BenchmarkOpen(b *testing.B)           { bench(b, true, false) }
