package pool

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/pool/internal/lsn"
)

// capture finds out the primary's position after writes, on a connection of its own. All that finished before a query is
// sent share its answer, so there is at most one query in flight however many write.
//
// The insert position is asked for, after the commit was answered: the flush position is too low under asynchronous commit,
// and any position read inside the transaction lies before its commit record.
type capture struct {
	e    *epoch
	wake chan struct{}
	done chan struct{} // closed by stop

	mu      sync.Mutex
	queue   []func(position string)
	stopped bool
	nudge   bool
}

const captureSQL = `select pg_current_wal_insert_lsn()::text`

// nudgeSQL writes and flushes a record, so that replicas receive everything before it: an insert position can lie inside a
// page header, in an open transaction's log or in what asynchronous commit has not flushed, which nobody sends by itself.
const nudgeSQL = `select set_config('synchronous_commit', 'local', true), pg_logical_emit_message(true, 'fairlead', '')`

func newCapture(e *epoch) *capture {
	c := &capture{e: e, wake: make(chan struct{}, 1), done: make(chan struct{})}
	e.db.tasks.Go(c.run)
	return c
}

// after resolves with a position at or past everything committed so far, or with "" if the epoch ends before that is known.
func (c *capture) after(resolve func(position string)) {
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		resolve("")
		return
	}
	c.queue = append(c.queue, resolve)
	c.mu.Unlock()
	c.signal()
}

func (c *capture) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *capture) askNudge() {
	c.mu.Lock()
	c.nudge = true
	c.mu.Unlock()
	c.signal()
}

func (c *capture) stop() {
	c.mu.Lock()
	stopped := c.stopped
	c.stopped = true
	c.mu.Unlock()
	if !stopped {
		close(c.done)
	}
}

func (c *capture) take() (batch []func(string), nudge bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	batch, nudge = c.queue, c.nudge
	c.queue, c.nudge = nil, false
	return batch, nudge
}

func (c *capture) run() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // ends with run, and ends what run waits for
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	var conn *pgconn.PgConn
	defer func() {
		if conn != nil {
			hangUp(conn)
		}
		batch, _ := c.take()
		for _, resolve := range batch {
			resolve("")
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		batch, nudge := c.take()
		if len(batch) > 0 {
			var position string
			position, conn = c.ask(ctx, conn)
			for _, resolve := range batch {
				resolve(position)
			}
		}
		if nudge {
			conn = c.push(ctx, conn)
		}
	}
}

// ask returns the position, and the connection to use next. It tries until the epoch ends.
func (c *capture) ask(ctx context.Context, conn *pgconn.PgConn) (string, *pgconn.PgConn) {
	for {
		at := time.Now()
		var l uint64
		var err error
		l, conn, err = c.try(ctx, conn)
		if err == nil {
			p := lsn.Position{Timeline: c.e.timeline, LSN: l}
			c.e.db.samples.add(at, p)
			return p.String(), conn
		}
		if ctx.Err() != nil {
			return "", conn
		}
		c.e.db.opt.log.Debug("position not captured yet", "node", c.e.node.name, "error", err)
		c.e.node.kick()
		select {
		case <-ctx.Done():
			return "", conn
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *capture) try(ctx context.Context, conn *pgconn.PgConn) (uint64, *pgconn.PgConn, error) {
	row, conn, err := c.one(ctx, conn, captureSQL)
	if err != nil {
		return 0, conn, err
	}
	c.e.db.counts.captures.Add(1)
	l, err := lsn.ParsePG(row[0])
	return l, conn, err
}

func (c *capture) push(ctx context.Context, conn *pgconn.PgConn) *pgconn.PgConn {
	_, conn, err := c.one(ctx, conn, nudgeSQL)
	if err == nil {
		c.e.db.counts.nudges.Add(1)
	}
	return conn
}

// one runs sql on the epoch's primary and returns its row, and the connection to use next.
func (c *capture) one(ctx context.Context, conn *pgconn.PgConn, sql string) ([]string, *pgconn.PgConn, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if conn == nil {
		fresh, err := c.e.node.dial(ctx)
		if err != nil {
			return nil, nil, err
		}
		conn = fresh
		id, _, replica, err := identify(ctx, conn)
		if err == nil && (id != c.e.id || replica) {
			err = errMoved
		}
		if err != nil {
			hangUp(conn)
			return nil, nil, err
		}
	}
	row, err := oneRow(ctx, conn, sql)
	if err != nil {
		hangUp(conn)
		return nil, nil, err
	}
	return row, conn, nil
}

// wrote makes the scope of ctx, if there is one, demand everything that the epoch's primary has committed by now.
func (e *epoch) wrote(s *causal.Scope) {
	if s != nil {
		e.pending(s)()
	}
}

// saw raises what the scope has read to everything that the primary has committed by now. It waits for the answer: until it
// is there another read could go back.
func (p *Pool) saw(ctx context.Context, s *causal.Scope, tag string) {
	if s == nil {
		return
	}
	position := ""
	e := p.leader.Load()
	if e != nil && e.tag == tag && e.blind {
		return
	}
	if e != nil && e.tag == tag {
		got := make(chan string, 1)
		e.capture.after(func(position string) { got <- position })
		timer := time.NewTimer(probeTimeout)
		defer timer.Stop()
		select {
		case position = <-got:
		case <-timer.C:
		case <-ctx.Done(): // a cancelled read has seen something too, and the answer is on its way
			timer.Reset(nudgeAfter)
			select {
			case position = <-got:
			case <-timer.C:
			}
		}
	}
	s.Domain(tag).Saw(position) // "" is: unknown, so demand the primary for a while
}

// nudger decides when a position that no replica reaches is worth a record in the log.
type nudger struct {
	mu      sync.Mutex
	want    lsn.Position
	waiting bool
	last    time.Time
}

const (
	nudgeAfter = 20 * time.Millisecond
	nudgeGap   = 200 * time.Millisecond
)

// wanted notes that a read went without a replica for want of p.
func (p *Pool) wanted(want lsn.Position) {
	n := &p.nudger
	n.mu.Lock()
	defer n.mu.Unlock()
	if want.Timeline > n.want.Timeline || want.Timeline == n.want.Timeline && want.LSN > n.want.LSN {
		n.want = want
	}
	if n.waiting {
		return
	}
	n.waiting = true
	after := max(nudgeAfter, nudgeGap-time.Since(n.last))
	time.AfterFunc(after, func() {
		n.mu.Lock()
		n.waiting = false
		want := n.want
		n.mu.Unlock()
		e := p.leader.Load()
		if e == nil || e.timeline != want.Timeline || p.closed.Load() {
			return
		}
		for _, node := range p.nodes {
			node.mu.Lock()
			reached := node.up && !node.seen.primary && node.seen.pos.Reaches(want)
			node.mu.Unlock()
			if reached {
				return
			}
		}
		n.mu.Lock()
		n.last = time.Now()
		n.mu.Unlock()
		e.capture.askNudge()
	})
}
