package offload

import (
	"context"
)

// Do runs fn in the lane and returns what it returns. It waits for a worker, Options.QueueTimeout at most, with ctx's priority
// (overload.WithPriority); ctx's permit of an overload.Limiter, if it has one, is given back.
//
// fn's context is ctx, or ends earlier by Options.RunTimeout. When it ends, Do returns its error at once. fn should end then
// too: until it does it keeps its worker, and what it returns is dropped. A panic of fn, or runtime.Goexit, is a *PanicError.
//
// Goroutines that fn starts run like any others, with full priority and no bound.
func Do[T any](ctx context.Context, l *Lane, fn func(context.Context) (T, error)) (T, error) {
	var result T
	ran, err := l.do(&task{ctx: ctx, thread: func(ctx context.Context) (err error) {
		result, err = fn(ctx)
		return err
	}})
	if !ran { // fn may be writing to result
		var none T
		return none, err
	}
	return result, err
}

type weightKey struct{}

// Weight returns a context whose tasks count as n workers: for what needs much memory or runs in several threads itself, such
// as a hash of argon2. More than the lane has means all of it; below 1 means 1.
func Weight(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, weightKey{}, max(1, n))
}

func weightOf(ctx context.Context, most int) int {
	n, ok := ctx.Value(weightKey{}).(int)
	if !ok {
		return 1
	}
	return min(n, most)
}
