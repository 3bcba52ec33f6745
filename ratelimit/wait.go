package ratelimit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Wait takes one permit for key and waits for it if it must: for a client that keeps within somebody else's limit. Those who
// wait in this process for the same key are served in the order they came, and only the first of them asks.
//
// It returns nil with the permit taken; *Exceeded, without waiting any longer, as soon as it is known that the permit comes after
// ctx's deadline; else the context's error, ErrClosed, or what Take returns. A limit with InFlight is an error: nobody could give back.
func (l *Limiter) Wait(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if rules, err := l.rulesFor(ctx, key); err == nil && holds(rules) {
		return fmt.Errorf("ratelimit: %s: Wait cannot give back what is in flight: use Take and Return", l.name)
	}
	line, ahead := l.lines.join(key)
	defer l.lines.leave(key, line)
	if wait := l.atLeast(ctx, key, ahead); beyond(ctx, wait) {
		return &Exceeded{Name: l.name, RetryAfter: wait}
	}
	select {
	case line.turn <- struct{}{}:
		defer func() { <-line.turn }()
	case <-ctx.Done():
		return ctx.Err()
	case <-l.closing:
		return fmt.Errorf("%s: %w", l.name, ErrClosed)
	}
	for {
		d, err := l.Take(ctx, key, 1)
		if err != nil || d.Allowed {
			return err
		}
		// A little later than told, so that processes that were told the same do not come back together.
		wait := d.RetryAfter + time.Duration(rand.Int64N(int64(d.RetryAfter/8)+1))
		if beyond(ctx, d.RetryAfter) {
			return &Exceeded{Name: l.name, RetryAfter: d.RetryAfter}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-l.closing:
			timer.Stop()
			return fmt.Errorf("%s: %w", l.name, ErrClosed)
		}
	}
}

// atLeast is the time that ahead waiters before this one take at the very least: even a full burst serves only so many at once.
func (l *Limiter) atLeast(ctx context.Context, key string, ahead int) (wait time.Duration) {
	rules, err := l.rulesFor(ctx, key)
	if err != nil {
		return 0 // Take reports it
	}
	for _, r := range rules {
		if n := int64(ahead + 1 - r.Burst); n > 0 && r.isRate() {
			wait = max(wait, micros(mulDiv(n, r.unit, r.leak)))
		}
	}
	return wait
}

func beyond(ctx context.Context, wait time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ok && wait > time.Until(deadline)
}

// lines are the queues of Wait, one a key while somebody waits.
type lines struct {
	mu   sync.Mutex
	m    map[string]*line
	size int
}

type line struct {
	turn    chan struct{} // of capacity 1: who has sent may ask; senders are served in order
	waiting int
}

func (q *lines) join(key string) (l *line, ahead int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.m == nil {
		q.m = make(map[string]*line)
	}
	l = q.m[key]
	if l == nil {
		l = &line{turn: make(chan struct{}, 1)}
		q.m[key] = l
	}
	l.waiting++
	q.size++
	return l, l.waiting - 1
}

func (q *lines) leave(key string, l *line) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.size--
	if l.waiting--; l.waiting == 0 {
		delete(q.m, key)
	}
}

func (q *lines) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size
}
