package scale

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// check is a readiness check that asks its component at most once at a time and once in ttl, and answers within the time-out
// even if the component does not.
type check struct {
	ping         func(context.Context) error
	timeout, ttl time.Duration

	mu      sync.Mutex
	asked   time.Time     // of the last answer
	err     error         // the last answer
	pending chan struct{} // closed when the question that is out has been answered; nil: none is
}

func newCheck(ping func(context.Context) error, timeout, ttl time.Duration) *check {
	return &check{ping: ping, timeout: timeout, ttl: ttl}
}

func (c *check) run(ctx context.Context) error {
	c.mu.Lock()
	if c.pending == nil {
		if !c.asked.IsZero() && time.Since(c.asked) < c.ttl {
			defer c.mu.Unlock()
			return c.err
		}
		c.ask()
	}
	pending := c.pending
	c.mu.Unlock()

	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	select {
	case <-pending:
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.err
	case <-timer.C:
		return fmt.Errorf("no answer within %v", c.timeout)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ask has a context of its own: the answer is for everyone, not for the probe that happened to come first.
func (c *check) ask() {
	pending, began := make(chan struct{}), time.Now()
	c.pending = pending
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
		defer cancel()
		err := safely(func() error { return c.ping(ctx) })
		c.mu.Lock()
		defer c.mu.Unlock()
		c.err, c.asked, c.pending = err, began, nil
		close(pending)
	}()
}
