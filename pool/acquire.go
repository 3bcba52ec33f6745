package pool

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/pool/causal"
)

// lease is a connection in use, with where it leads.
type lease struct {
	conn  *pgxpool.Conn
	pool  *connPool
	slot  int
	node  *node
	epoch *epoch // nil on a replica
	state *connState
	mark  int64 // what had been written to the connection before
}

// lease takes a connection of c; e is the epoch that c belongs to, if any. traced is as in acquire.
func (c *connPool) lease(ctx context.Context, e *epoch, traced bool) (lease, error) {
	conn, slot, err := c.acquire(ctx, traced)
	if err != nil {
		return lease{}, err
	}
	l := lease{conn: conn, pool: c, slot: slot, node: c.node, epoch: e, state: stateOf(conn.Conn().PgConn())}
	l.node.inUse.Add(1)
	if l.state.sock != nil {
		l.mark = l.state.sock.written.Load()
	}
	return l, nil
}

// unsent marks the error of a connection that was lost before anything was written to it.
func (l *lease) unsent(err error) error {
	if err == nil || !l.conn.Conn().IsClosed() || l.state.sock == nil || l.state.sock.written.Load() != l.mark {
		return err
	}
	return &unsentError{err}
}

// end gives the connection back and says whether it was lost.
func (l *lease) end() (lost bool) {
	if l.conn == nil {
		return false
	}
	lost = l.conn.Conn().IsClosed()
	l.pool.release(l.conn, l.slot)
	l.conn = nil
	l.node.inUse.Add(-1)
	if lost {
		l.node.kick()
	}
	return lost
}

// cut says that the server gave up its wait for a synchronous standby since it was last asked.
func (l *lease) cut() error {
	if !l.state.syncCut {
		return nil
	}
	l.state.syncCut = false
	return errSyncCut
}

var errSyncCut = errors.New("committed on the primary; the wait for the synchronous standby was cut off")

// attempts is one call's way to the primary: it may start again as long as nothing was sent.
type attempts struct {
	deadline time.Time // for finding a primary; zero until the first is missed
	n        int
}

// again says whether the call may start over after err.
func (p *Pool) again(ctx context.Context, a *attempts, err error) bool {
	if err == nil || !unsent(err) || permanent(err) || ctx.Err() != nil || p.closed.Load() {
		return false
	}
	p.suspect()
	if !p.more(a) {
		return false
	}
	p.counts.retries.Add(1)
	a.n++
	if a.n > 1 { // the first time the connection alone may have been bad
		select {
		case <-ctx.Done():
			return false
		case <-p.ctx.Done():
			return false
		case <-time.After(time.Duration(10+rand.IntN(40)) * time.Millisecond):
		}
	}
	return true
}

func (p *Pool) more(a *attempts) bool {
	if a.deadline.IsZero() {
		a.deadline = time.Now().Add(p.opt.failoverTimeout)
		return p.opt.failoverTimeout > 0 || a.n == 0
	}
	return time.Now().Before(a.deadline)
}

// primary returns a connection to the primary, and waits for there to be one. traced is as in acquire.
func (p *Pool) primary(ctx context.Context, a *attempts, traced bool) (lease, error) {
	for {
		e, err := p.awaitLeader(ctx, a)
		if err != nil {
			return lease{}, err
		}
		l, err := e.pool.lease(ctx, e, traced)
		if err == nil {
			if p.superseded(e) {
				l.end() // a newer timeline was seen meanwhile
				continue
			}
			return l, nil
		}
		if p.closed.Load() {
			return lease{}, ErrClosed
		}
		if ctx.Err() != nil || errors.Is(err, ErrSaturated) {
			return lease{}, err
		}
		// A dial failed, or the epoch's pool was closed: nothing was sent.
		if permanent(err) {
			return lease{}, err
		}
		p.suspect()
		if !p.more(a) {
			return lease{}, errors.Join(p.noPrimary(), err)
		}
		a.n++
		select {
		case <-ctx.Done():
			return lease{}, ctx.Err()
		case <-time.After(time.Duration(10+rand.IntN(40)) * time.Millisecond):
		}
	}
}

// superseded says that something newer than e has been seen, so nothing may be started in it.
func (p *Pool) superseded(e *epoch) bool {
	if p.leader.Load() == e {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.topo.current != e || p.topo.timeline > e.timeline
}

func (p *Pool) awaitLeader(ctx context.Context, a *attempts) (*epoch, error) {
	if e := p.leader.Load(); e != nil && !p.closed.Load() {
		return e, nil
	}
	var timeout <-chan time.Time
	for {
		change := p.changes()
		if p.closed.Load() {
			return nil, ErrClosed
		}
		if e := p.leader.Load(); e != nil {
			return e, nil
		}
		if !p.more(a) || p.opt.failoverTimeout == 0 || p.hopeless() {
			return nil, p.noPrimary()
		}
		if timeout == nil {
			t := time.NewTimer(time.Until(a.deadline))
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-change:
		case <-timeout:
			return nil, p.noPrimary()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// hopeless says that no server lets this pool in, for reasons that waiting does not change.
func (p *Pool) hopeless() bool {
	for _, n := range p.nodes {
		n.mu.Lock()
		refused := !n.up && permanent(n.reason)
		n.mu.Unlock()
		if !refused {
			return false
		}
	}
	return true
}

// Acquire returns a connection to the primary, as pgxpool does. Under a scope it counts as a write from now until its
// release: meanwhile reads of the scope go to the primary.
//
// Do not Hijack it: the pool does not learn of that, so it counts as in use for good, and under a scope as a write whose
// position is never known.
func (p *Pool) Acquire(ctx context.Context) (*pgxpool.Conn, error) {
	var a attempts
	l, err := p.primary(ctx, &a, true)
	if err != nil {
		return nil, err
	}
	c, e := l.conn, l.epoch
	n := l.node
	var wrote func()
	if s := causal.From(ctx); s != nil {
		wrote = e.pending(s)
	}
	l.state.release = func(conn *pgx.Conn) {
		l.pool.forsake(conn)
		l.pool.queue.give(l.slot)
		n.inUse.Add(-1)
		l.state.syncCut = false
		if wrote != nil {
			wrote()
		}
	}
	return c, nil
}

// AcquireFunc calls f with a connection to the primary and releases it.
func (p *Pool) AcquireFunc(ctx context.Context, f func(*pgxpool.Conn) error) error {
	c, err := p.Acquire(ctx)
	if err != nil {
		return err
	}
	defer c.Release()
	return f(c)
}

// Stat returns pgxpool's numbers of the pool on the primary, or nil while there never was one. [Pool.Stats] has all servers'.
func (p *Pool) Stat() *pgxpool.Stat {
	p.mu.Lock()
	e := p.topo.current
	p.mu.Unlock()
	if e == nil {
		return nil
	}
	return e.pool.Stat()
}
