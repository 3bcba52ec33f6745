package pool

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// connPool are the connections to one server in one role: a pgxpool, behind a queue of this package's own.
type connPool struct {
	*pgxpool.Pool
	node  *node
	socks sockets
	queue permits
	open  atomic.Int64 // connections that are whole
	lent  atomic.Bool  // others use the pgxpool too
}

// newConnPool returns an empty pool; accept decides on each of its connections.
func (n *node) newConnPool(ctx context.Context, accept func(identity, bool) error) (*connPool, error) {
	c := &connPool{node: n}
	config := n.poolConfig(accept, c)
	c.queue.most = int(config.MaxConns)
	var err error
	c.Pool, err = pgxpool.NewWithConfig(ctx, config)
	return c, err
}

// acquire takes a connection, within Options.AcquireTimeout. traced: it may be held for long, so note by whom.
func (c *connPool) acquire(ctx context.Context, traced bool) (conn *pgxpool.Conn, slot int, err error) {
	n := c.node
	d := n.db.opt.acquireTimeout
	var started time.Time
	slot, ok, err := c.queue.try(traced)
	if err == nil && !ok {
		started = time.Now()
		n.waiting.Add(1)
		var backs uint64
		slot, backs, err = c.queue.wait(ctx, d, traced)
		n.waiting.Add(-1)
		if err == errNoPermit {
			return nil, 0, c.saturated(ctx, backs)
		}
	}
	if err != nil {
		return nil, 0, err
	}
	bounded := ctx
	if d > 0 && (c.lent.Load() || c.open.Load() < int64(c.queue.inUse())) { // none may be idle
		if !started.IsZero() {
			d = max(d-time.Since(started), suspectDelay)
		}
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	if conn, err = c.Acquire(bounded); err == nil {
		return conn, slot, nil
	}
	c.queue.give(slot)
	switch {
	case ctx.Err() != nil || bounded.Err() == nil:
		return nil, 0, err
	}
	if st := c.Stat(); st.AcquiredConns() < st.MaxConns() {
		return nil, 0, &unsentError{fmt.Errorf("pool: no connection to %s within %v", n.name, n.db.opt.acquireTimeout)}
	}
	return nil, 0, c.saturated(ctx, 0)
}

func (c *connPool) saturated(ctx context.Context, backs uint64) error {
	n := c.node
	n.db.counts.saturated.Add(1)
	return fmt.Errorf("%w: %s: no connection to %s within %v: %d in use%s", ErrSaturated, n.db.opt.name, n.name,
		n.db.opt.acquireTimeout, c.queue.inUse(), c.queue.blame(ctx, backs))
}

// release gives a connection back.
func (c *connPool) release(conn *pgxpool.Conn, slot int) {
	c.forsake(conn.Conn())
	conn.Release()
	c.queue.give(slot)
}

// forsake notes a connection that pgxpool will not keep. Closing it can take long, and happens in the background.
func (c *connPool) forsake(conn *pgx.Conn) {
	pc := conn.PgConn()
	if !conn.IsClosed() && !pc.IsBusy() && pc.TxStatus() == 'I' {
		return
	}
	c.gone(conn)
}

func (c *connPool) gone(conn *pgx.Conn) {
	if s := stateOf(conn.PgConn()); s != nil && s.whole.CompareAndSwap(true, false) {
		c.open.Add(-1)
	}
}

// close waits until every connection has come back, but cuts them after patience.
func (c *connPool) close(patience time.Duration) {
	c.queue.close()
	cut := time.AfterFunc(patience, c.socks.cutAll)
	defer cut.Stop()
	c.Pool.Close()
}

// LeaderPool returns the plain pgxpool of the present primary, for a library that wants one. It waits for a primary like
// every call. What runs there is on its own: it fills no scope, is not tried again, and counts in none of this pool's numbers;
// its connections are among Options.MaxConns. The pool is closed when the primary changes or restarts, and with p, and then
// fails with "closed pool": ask for it anew. Do not close it.
func (p *Pool) LeaderPool(ctx context.Context) (*pgxpool.Pool, error) {
	var a attempts
	e, err := p.awaitLeader(ctx, &a)
	if err != nil {
		return nil, err
	}
	e.pool.lent.Store(true)
	return e.pool.Pool, nil
}
