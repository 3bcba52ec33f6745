package pool

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/pool/internal/dialgate"
	"github.com/fairlead/fairlead/pool/internal/lsn"
)

// node is one configured server, in whatever role it is now.
type node struct {
	db     *Pool
	name   string
	config *pgxpool.Config
	wake   chan struct{} // a probe is wanted now
	gate   *dialgate.Gate

	inUse   atomic.Int64 // by this package's callers
	waiting atomic.Int64
	reads   atomic.Uint64

	mu     sync.Mutex
	up     bool
	seen   observation   // the last successful probe; pos also from reads
	fresh  time.Time     // everything committed before this has been replayed
	behind lsn.Position  // a read wanted this and did not get it
	reader *connPool     // while it is a replica
	reason error         // why it is down, or not used
	down   time.Time     // since when, if it is down
	moved  chan struct{} // closed when pos has grown
	follow int           // reads waiting for pos to grow
	health health

	stranger  identity // the last other server that a connection led to
	strangeAt time.Time
	several   bool // the address hides several servers: each connection has to speak for itself
	looked    bool // for what New warns of
}

// observation is what a probe found.
type observation struct {
	id      identity
	primary bool
	pos     lsn.Position
	at      time.Time // before the probe was sent
	took    time.Duration
	sure    bool // a replica's pos.Timeline is the one that it receives
	blind   bool // the service has no positions
}

// The timeline of a replica is the one it receives; without the right to see that (pg_monitor), or without a receiver, the
// control file's, which lags behind and so is a lower bound.
const probeSQL = `select system_identifier::text, (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint::text,
	pg_is_in_recovery()::text,
	case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end::text,
	case when pg_is_in_recovery()
	then greatest((select timeline_id from pg_control_checkpoint()), (select min_recovery_end_timeline from pg_control_recovery()),
		(select received_tli from pg_stat_wal_receiver))::text
	else ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int::text end,
	(select received_tli from pg_stat_wal_receiver)::text
	from pg_control_system()`

// blindProbeSQL is for services that refuse to tell positions.
const blindProbeSQL = `select system_identifier::text, (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint::text,
	pg_is_in_recovery()::text, '', '0', '' from pg_control_system()`

const followSQL = `select pg_last_wal_replay_lsn()::text, (select received_tli from pg_stat_wal_receiver)::text`

func newNode(db *Pool, c *pgxpool.Config) *node {
	n := &node{db: db, name: address(c), config: c, wake: make(chan struct{}, 1), moved: make(chan struct{})}
	conns := int(c.MaxConns)
	n.gate = dialgate.New(dialgate.Options{Concurrency: dialsAtOnce, Burst: 2*conns + 16, Rate: float64(5*conns + 20),
		MaxBackoff: probeInterval})
	dial := c.ConnConfig.DialFunc
	c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return n.gate.Dial(ctx, func() (net.Conn, error) { return dial(ctx, network, addr) })
	}
	return n
}

// kick asks for a probe now.
func (n *node) kick() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// watch probes the server until ctx ends.
func (n *node) watch(ctx context.Context) {
	var conn *pgconn.PgConn
	defer func() {
		if conn != nil {
			hangUp(conn)
		}
	}()
	first := true
	for {
		conn = n.probe(ctx, conn)
		if first {
			first = false
			n.db.probed.Done()
		}
		if ctx.Err() != nil {
			return
		}
		next := time.Now().Add(n.db.interval(n))
		for {
			var soon <-chan time.Time
			if conn != nil && n.followed() {
				soon = time.After(time.Millisecond)
			}
			timer := time.NewTimer(time.Until(next))
			again := false
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-n.wake:
				if again = n.followed() && conn != nil; again {
					if sooner := time.Now().Add(n.db.interval(n)); sooner.Before(next) {
						next = sooner
					}
				}
			case <-timer.C:
			case <-soon:
				again = true
			}
			timer.Stop()
			if !again {
				break
			}
			if conn = n.poll(ctx, conn); conn == nil {
				break
			}
		}
	}
}

// probe asks the server about itself and reports what it says. It returns the connection to use next.
func (n *node) probe(ctx context.Context, conn *pgconn.PgConn) *pgconn.PgConn {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	had := conn != nil
	for {
		o := observation{at: time.Now()}
		var err error
		if conn == nil {
			conn, err = n.dial(ctx)
		}
		var row []string
		if err == nil {
			o.at = time.Now()
			row, err = oneRow(ctx, conn, probeSQL)
			if code := pgCode(err); code == "0A000" || code == "55000" {
				o.blind = true
				row, err = oneRow(ctx, conn, blindProbeSQL)
			}
			o.took = time.Since(o.at)
		}
		if err == nil {
			err = o.read(row)
		}
		if err == nil {
			n.db.observe(n, o)
			n.look(ctx, conn)
			return conn
		}
		if conn != nil {
			hangUp(conn)
			conn = nil
		}
		if had && ctx.Err() == nil {
			had = false // the connection may have ended without its server
			continue
		}
		n.db.lost(n, fmt.Errorf("probe: %w", err))
		return nil
	}
}

func (o *observation) read(row []string) (err error) {
	if o.id.system, err = strconv.ParseUint(row[0], 10, 64); err != nil {
		return err
	}
	if o.id.start, err = strconv.ParseInt(row[1], 10, 64); err != nil {
		return err
	}
	o.primary = row[2] == "false"
	if row[3] != "" { // nothing was replayed yet
		if o.pos.LSN, err = lsn.ParsePG(row[3]); err != nil {
			return err
		}
	}
	t, err := strconv.ParseUint(row[4], 10, 32)
	o.pos.Timeline = uint32(t)
	o.sure = row[5] == row[4]
	return err
}

// poll is a short probe while reads wait for the replica.
func (n *node) poll(ctx context.Context, conn *pgconn.PgConn) *pgconn.PgConn {
	pollCtx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	n.mu.Lock()
	id := n.seen.id
	n.mu.Unlock()
	row, err := oneRow(pollCtx, conn, followSQL)
	if err == nil {
		var l uint64
		if l, err = lsn.ParsePG(row[0]); err == nil {
			timeline, _ := strconv.ParseUint(row[1], 10, 32) // "": not known
			n.raise(id, l, uint32(timeline))
			return conn
		}
	}
	hangUp(conn)
	return nil
}

func hangUp(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), suspectDelay)
	defer cancel()
	conn.Close(ctx)
}

// raise records that the run id of the server has replayed up to l, while it received the given timeline, 0 if that is not
// known. It returns the position that this shows: none if it may lie on a newer timeline than the last probe saw.
func (n *node) raise(id identity, l uint64, timeline uint32) (lsn.Position, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch known := n.seen.pos; {
	case !n.up || n.seen.id != id || n.seen.primary:
		return lsn.Position{}, false
	case l <= known.LSN && timeline == 0: // as far as it was shown to be before
	case timeline == 0 && n.db.leader.Load() == nil: // a new primary may have been found by the replica, and not by us
		return lsn.Position{}, false
	case timeline != 0 && timeline != known.Timeline:
		n.kick()
		return lsn.Position{}, false
	}
	if l > n.seen.pos.LSN {
		n.advanceLocked(l)
	}
	return lsn.Position{Timeline: n.seen.pos.Timeline, LSN: l}, true
}

func (n *node) advanceLocked(l uint64) {
	n.seen.pos.LSN = l
	if t := n.db.samples.newestAt(n.seen.pos); t.After(n.fresh) {
		n.fresh = t
	}
	if n.behind != (lsn.Position{}) && n.seen.pos.Reaches(n.behind) {
		n.behind = lsn.Position{}
	}
	if n.follow > 0 {
		close(n.moved)
		n.moved = make(chan struct{})
	}
}

func (n *node) followed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.follow > 0
}

// fellBehind records that the replica did not have p when a read wanted it.
func (n *node) fellBehind(p lsn.Position) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.up && !n.seen.pos.Reaches(p) && !n.behind.Reaches(p) {
		n.behind = p
		n.kick() // probes come closer together now
	}
}
