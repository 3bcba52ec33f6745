// Package dialgate keeps a client from storming a server with new connections: a bound on those being dialled at once, on
// how many a second, and growing pauses while they fail.
//
// Over any period no more than Burst + Rate × its seconds pass, whatever they are for: a pool's connections, its probes, the
// requests by which statements are cancelled.
package dialgate

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Options of a Gate; all must be positive.
type Options struct {
	Concurrency int           // dials at once
	Burst       int           // that may follow each other without a pause
	Rate        float64       // a second, beyond Burst
	MaxBackoff  time.Duration // the longest pause after failures; the first is a fiftieth of it
}

// Stats is what a Gate has counted.
type Stats struct {
	Dials  uint64 // let through
	Failed uint64
	Held   uint64 // had to wait
}

// Gate is for one server. It is safe for concurrent use.
type Gate struct {
	o     Options
	slots chan struct{}

	mu       sync.Mutex
	tokens   float64
	at       time.Time // of tokens
	failures int
	until    time.Time // of the pause
	stats    Stats
}

// New returns a Gate whose burst is available.
func New(o Options) *Gate {
	return &Gate{o: o, slots: make(chan struct{}, o.Concurrency), tokens: float64(o.Burst), at: time.Now()}
}

type urgentKey struct{}

// Urgent returns a context whose dials wait neither for other dials nor out a pause, but are counted: those by which it is
// found out that a server is back.
func Urgent(ctx context.Context) context.Context { return context.WithValue(ctx, urgentKey{}, true) }

// Dial calls dial when it may, or fails with ctx.
func (g *Gate) Dial(ctx context.Context, dial func() (net.Conn, error)) (net.Conn, error) {
	urgent := ctx.Value(urgentKey{}) != nil
	held := false
	if !urgent {
		select {
		case g.slots <- struct{}{}:
		default:
			held = true
			select {
			case g.slots <- struct{}{}:
			case <-ctx.Done():
				g.note(func(s *Stats) { s.Held++ })
				return nil, ctx.Err()
			}
		}
		defer func() { <-g.slots }()
	}
	for {
		wait := g.take(urgent)
		if wait <= 0 {
			break
		}
		held = true
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			g.note(func(s *Stats) { s.Held++ })
			return nil, ctx.Err()
		}
	}
	if held {
		g.note(func(s *Stats) { s.Held++ })
	}
	conn, err := dial()
	g.result(ctx, err)
	return conn, err
}

// take lets a dial through, or says how long to wait before asking again.
func (g *Gate) take(urgent bool) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if d := g.until.Sub(now); d > 0 && !urgent {
		return d
	}
	g.tokens = min(float64(g.o.Burst), g.tokens+now.Sub(g.at).Seconds()*g.o.Rate)
	g.at = now
	if g.tokens < 1 {
		return max(time.Millisecond, time.Duration((1-g.tokens)/g.o.Rate*float64(time.Second)))
	}
	g.tokens--
	g.stats.Dials++
	return 0
}

// result takes in how a dial went. One that its own context ended says nothing about the server.
func (g *Gate) result(ctx context.Context, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case err == nil:
		g.failures, g.until = 0, time.Time{}
	case ctx.Err() == nil:
		g.stats.Failed++
		d := min(g.o.MaxBackoff/50<<min(g.failures, 10), g.o.MaxBackoff)
		g.failures++
		g.until = time.Now().Add(d/2 + rand.N(d/2+1))
	default:
		g.stats.Failed++
	}
}

func (g *Gate) note(f func(*Stats)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.stats)
}

// Stats returns a snapshot.
func (g *Gate) Stats() Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stats
}
