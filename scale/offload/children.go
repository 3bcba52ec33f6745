package offload

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// children are the processes of a lane. Each serves one call at a time; there are never more than the lane has workers.
type children struct {
	lane *Lane

	mu   sync.Mutex
	idle []*child // the most recently used last
	n    int      // with those that work
}

func (c *children) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// take returns an idle process or starts one.
func (c *children) take() (*child, error) {
	c.mu.Lock()
	for len(c.idle) > 0 {
		p := c.idle[len(c.idle)-1]
		c.idle = c.idle[:len(c.idle)-1]
		if p.rest != nil {
			p.rest.Stop()
		}
		if p.alive() {
			c.mu.Unlock()
			return p, nil
		}
		c.n-- // it ended while it had nothing to do
		p.close()
	}
	c.n++
	c.mu.Unlock()
	p, err := startChild(c.lane.opts.MaxMemory)
	if err != nil {
		c.mu.Lock()
		c.n--
		c.mu.Unlock()
	}
	return p, err
}

// give keeps a process for the next call.
func (c *children) give(p *child) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, p)
	if d := c.lane.opts.IdleTimeout; d > 0 {
		p.rest = time.AfterFunc(d, func() { c.retire(p) })
	}
}

// retire ends a process that is idle.
func (c *children) retire(p *child) {
	c.mu.Lock()
	i := slices.Index(c.idle, p)
	if i >= 0 {
		c.idle = slices.Delete(c.idle, i, i+1)
		c.n--
	}
	c.mu.Unlock()
	if i >= 0 {
		p.close()
	}
}

// drop forgets a process that is gone.
func (c *children) drop(p *child) {
	p.close()
	c.mu.Lock()
	c.n--
	c.mu.Unlock()
}

func (c *children) close() {
	c.mu.Lock()
	idle := c.idle
	c.idle, c.n = nil, c.n-len(idle)
	c.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range idle {
		if p.rest != nil {
			p.rest.Stop()
		}
		wg.Go(p.close)
	}
	wg.Wait()
}

// memoryPeriod is how often a process that works is asked for its memory.
const memoryPeriod = 50 * time.Millisecond

// call runs a registered function in a process.
func (c *children) call(ctx context.Context, name string, argument []byte) ([]byte, error) {
	o := &c.lane.opts
	p, err := c.take()
	if err != nil {
		return nil, err
	}
	var timeout time.Duration
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(1, time.Until(deadline))
	}
	answers := p.ask(runPayload(timeout, name, argument))

	var memory <-chan time.Time
	if o.MaxMemory > 0 {
		t := time.NewTicker(memoryPeriod)
		defer t.Stop()
		memory = t.C
	}
	ended := ctx.Done()
	var grace <-chan time.Time
	killed := ""
	for {
		select {
		case a := <-answers:
			if a.err != nil {
				status := p.end()
				c.drop(p)
				return nil, c.exited(name, status, killed)
			}
			c.give(p)
			if k := a.frame.kind; (k == kindCanceled || k == kindDeadline) && ctx.Err() != nil {
				// The end came from here; the process may have been told of a deadline as a cancellation.
				return nil, remoteError{string(a.frame.payload), ctx.Err()}
			}
			return answer(a.frame)
		case <-ended:
			ended = nil
			p.cancel()
			t := time.NewTimer(o.Grace)
			defer t.Stop()
			grace = t.C
		case <-grace:
			killed = "time"
			p.kill()
		case <-memory:
			if killed == "" && p.memory() > o.MaxMemory {
				killed = "memory"
				p.kill()
			}
		}
	}
}

func (c *children) exited(name, status, killed string) error {
	counts := &c.lane.counts
	e := &ExitError{Task: name, Status: status, Killed: killed}
	switch killed {
	case "time":
		counts.killedTime.Add(1)
	case "memory":
		counts.killedMem.Add(1)
	default:
		counts.exits.Add(1)
	}
	c.lane.opts.Logger.Warn("offload: a process is gone", slog.String("lane", c.lane.name), slog.Any("error", e))
	return e
}

// answer makes an error of a frame that is no result.
func answer(f frame) ([]byte, error) {
	switch f.kind {
	case kindValue:
		return f.payload, nil
	case kindError:
		return nil, errors.New(string(f.payload))
	case kindDeadline:
		return nil, remoteError{string(f.payload), context.DeadlineExceeded}
	case kindCanceled:
		return nil, remoteError{string(f.payload), context.Canceled}
	case kindGoexit:
		return nil, &PanicError{}
	case kindPanic:
		p, err := parsePanic(f.payload)
		if err != nil {
			return nil, err
		}
		return nil, p
	}
	return nil, errFrame
}

// remoteError is an error of a context in another process.
type remoteError struct {
	text string
	is   error
}

func (e remoteError) Error() string { return e.text }
func (e remoteError) Unwrap() error { return e.is }
