package retry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Do calls fn until it succeeds, its error is not worth another attempt, the attempts or the budget are used up, or ctx's
// deadline would pass before the next one. It returns the last result as it is; if ctx ends while it waits, an error that
// is both ctx's and the last attempt's. fn must be safe to run more than once.
func Do[T any](ctx context.Context, b *Budget, fn func(context.Context) (T, error)) (T, error) {
	b.deposit(&b.calls)
	for n := 0; ; n++ {
		v, err := fn(ctx)
		if err == nil {
			if n > 0 {
				b.recovered.Add(1)
			}
			return v, nil
		}
		if p, ok := err.(*permanent); ok { //nolint:errorlint // a wrapped one is returned as wrapped
			return v, p.err
		}
		if n+1 >= b.opts.MaxAttempts || ctx.Err() != nil || !b.isRetryable(err) {
			return v, err
		}
		delay := b.backoff(n)
		if !fits(ctx, delay) || !b.withdraw(&b.calls) {
			return v, err
		}
		if werr := wait(ctx, delay); werr != nil {
			return v, fmt.Errorf("retry: %w while waiting after: %w", werr, err)
		}
	}
}

// Permanent marks an error as not worth another attempt. Do returns what it was made of. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanent{err}
}

type permanent struct{ err error }

func (p *permanent) Error() string   { return p.err.Error() }
func (p *permanent) Unwrap() error   { return p.err }
func (p *permanent) Retryable() bool { return false }

func (b *Budget) isRetryable(err error) bool {
	var says interface{ Retryable() bool }
	if errors.As(err, &says) && !says.Retryable() {
		return false
	}
	return b.opts.IsRetryable == nil || b.opts.IsRetryable(err)
}

// backoff is the wait before retry n, from 0.
func (b *Budget) backoff(n int) time.Duration {
	most := b.opts.BaseDelay
	for range n {
		if most > b.opts.MaxDelay/2 {
			most = b.opts.MaxDelay
			break
		}
		most *= 2
	}
	return time.Duration(rand.Int64N(int64(most))) + 1
}

// fits says whether a wait ends before ctx does.
func fits(ctx context.Context, delay time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return !ok || delay < time.Until(deadline)
}

func wait(ctx context.Context, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
