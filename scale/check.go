package scale

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// check is a readiness check that asks its component at most once at a time and answers within the time-out even if the
// component does not. The worker caches the answers.
type check struct {
	ping    func(context.Context) error
	timeout time.Duration

	mu  sync.Mutex
	out *question // nil: none is out
}

type question struct {
	answered chan struct{}
	err      error // once answered
}

func newCheck(ping func(context.Context) error, timeout time.Duration) *check {
	return &check{ping: ping, timeout: timeout}
}

func (c *check) run(ctx context.Context) error {
	q := c.ask()
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	select {
	case <-q.answered:
		return q.err
	case <-timer.C:
		return fmt.Errorf("no answer within %v", c.timeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ask returns the question that is out, or asks. Its context is its own: the answer is for everyone, not for the probe that
// happened to come first.
func (c *check) ask() *question {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out != nil {
		return c.out
	}
	q := &question{answered: make(chan struct{})}
	c.out = q
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
		defer cancel()
		q.err = safely(func() error { return c.ping(ctx) })
		c.mu.Lock()
		c.out = nil
		c.mu.Unlock()
		close(q.answered)
	}()
	return q
}
