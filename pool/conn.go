package pool

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/multitracer"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/pool/internal/dialgate"
)

// identity is one run of one server: it ends with a restart.
type identity struct {
	system uint64 // shared by a primary and its replicas
	start  int64  // microseconds since 1970
}

func (id identity) tag() string { return "pg-" + strconv.FormatUint(id.system, 10) }

// connState is what this package keeps with a connection, under CustomData.
type connState struct {
	id      identity
	sock    *socket              // nil if it could not be told
	whole   atomic.Bool          // counted in its pool's open
	syncCut bool                 // the server gave up waiting for a synchronous standby
	release func(conn *pgx.Conn) // of a connection handed out by Acquire under a scope
	view    bool                 // in the transaction of a view
}

const stateKey = "fairlead/pool"

func stateOf(c *pgconn.PgConn) *connState {
	s, _ := c.CustomData()[stateKey].(*connState)
	return s
}

// identify asks a new connection which server it leads to.
const identifySQL = `select system_identifier::text, (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint::text,
	pg_is_in_recovery()::text, pg_backend_pid()::text from pg_control_system()`

func identify(ctx context.Context, c *pgconn.PgConn) (id identity, pid uint32, replica bool, err error) {
	row, err := oneRow(ctx, c, identifySQL)
	if err != nil {
		return id, 0, false, err
	}
	if id.system, err = strconv.ParseUint(row[0], 10, 64); err != nil {
		return id, 0, false, err
	}
	if id.start, err = strconv.ParseInt(row[1], 10, 64); err != nil {
		return id, 0, false, err
	}
	backend, err := strconv.ParseUint(row[3], 10, 32)
	return id, uint32(backend), row[2] == "true", err
}

// oneRow runs a statement that returns one row, as text; null is "".
func oneRow(ctx context.Context, c *pgconn.PgConn, sql string) ([]string, error) {
	results, err := c.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	if len(results) == 0 || len(results[len(results)-1].Rows) != 1 {
		return nil, fmt.Errorf("pool: %d results for one row", len(results))
	}
	row := results[len(results)-1].Rows[0]
	out := make([]string, len(row))
	for i, v := range row {
		out[i] = string(v)
	}
	return out, nil
}

// poolConfig returns the configuration of a pgxpool on n. accept decides on each new connection.
func (n *node) poolConfig(accept func(identity, bool) error, of *connPool) *pgxpool.Config {
	c := n.config.Copy()
	c.ConnConfig.DialFunc = of.socks.wrap(c.ConnConfig.DialFunc)
	onNotice := c.ConnConfig.OnNotice
	c.ConnConfig.OnNotice = func(pc *pgconn.PgConn, notice *pgconn.Notice) {
		if notice.Routine == "SyncRepWaitForLSN" {
			if s := stateOf(pc); s != nil {
				s.syncCut = true
			}
		}
		if onNotice != nil {
			onNotice(pc, notice)
		}
	}
	c.ConnConfig.Tracer = withRelease(c.ConnConfig.Tracer)
	afterConnect := c.AfterConnect
	c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		ctx, cancel := context.WithTimeout(ctx, c.ConnConfig.ConnectTimeout)
		defer cancel()
		id, pid, replica, err := identify(ctx, conn.PgConn())
		if err == nil {
			n.met(id)
			err = accept(id, replica)
		}
		if err == nil && pid != conn.PgConn().PID() {
			n.pooled()
		}
		if err != nil {
			n.kick()
			return err
		}
		s := &connState{id: id, sock: socketOf(conn.PgConn().Conn())}
		conn.PgConn().CustomData()[stateKey] = s
		if afterConnect != nil {
			if err := afterConnect(ctx, conn); err != nil {
				return err
			}
		}
		s.whole.Store(true)
		of.open.Add(1)
		return nil
	}
	beforeClose := c.BeforeClose
	c.BeforeClose = func(conn *pgx.Conn) {
		of.gone(conn)
		if beforeClose != nil {
			beforeClose(conn)
		}
	}
	return c
}

// dial opens a connection of the pool's own, outside of MaxConns, without the application's tracer.
func (n *node) dial(ctx context.Context) (*pgconn.PgConn, error) {
	ctx = dialgate.Urgent(ctx)
	c := n.config.ConnConfig.Copy()
	c.Tracer, c.OnNotice = nil, nil
	if n.config.BeforeConnect != nil {
		if err := n.config.BeforeConnect(ctx, c); err != nil {
			return nil, err
		}
	}
	conn, err := pgconn.ConnectConfig(ctx, &c.Config)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// releaseTracer hears when a connection handed out by Acquire comes back, and keeps what a view refuses from connections that
// are in a transaction of a view: large objects go to pgx's own transaction, past this package's.
type releaseTracer struct{}

func (releaseTracer) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if s := stateOf(conn.PgConn()); s != nil && s.view {
		if err := checkInTx(conn, data.SQL); err != nil {
			return refusedContext{ctx, err}
		}
	}
	return ctx
}

// refusedContext has ended, so pgx sends nothing and returns its error.
type refusedContext struct {
	context.Context
	err error
}

func (refusedContext) Done() <-chan struct{} { return closed }
func (c refusedContext) Err() error          { return c.err }

func (releaseTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (releaseTracer) TraceRelease(_ *pgxpool.Pool, data pgxpool.TraceReleaseData) {
	if s := stateOf(data.Conn.PgConn()); s != nil && s.release != nil {
		release := s.release
		s.release = nil
		release(data.Conn)
	}
}

func withRelease(users pgx.QueryTracer) pgx.QueryTracer {
	if users == nil {
		return releaseTracer{}
	}
	return multitracer.New(users, releaseTracer{})
}

// sockets are the network connections of one pool, so that those to a server that has stopped answering can be cut.
type sockets struct {
	mu   sync.Mutex
	open map[*socket]struct{}
	cut  bool
}

// socket is one of them. It counts what was written to it: that alone tells whether a statement may have reached the server,
// since pgconn.SafeToRetry is also true of some answers that were lost ("conn closed", in the simple protocol).
type socket struct {
	net.Conn
	of      *sockets
	written atomic.Int64
}

func (s *socket) Write(b []byte) (int, error) {
	s.written.Add(int64(len(b))) // before: what fails may have been sent in part
	return s.Conn.Write(b)
}

func socketOf(c net.Conn) *socket {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok { // TLS
		c = t.NetConn()
	}
	s, _ := c.(*socket)
	return s
}

func (s *socket) Close() error {
	s.of.mu.Lock()
	delete(s.of.open, s)
	s.of.mu.Unlock()
	return s.Conn.Close()
}

func (s *sockets) wrap(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		w := &socket{Conn: c, of: s}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.cut {
			c.Close()
			return nil, fmt.Errorf("%w: dialled too late", errMoved)
		}
		if s.open == nil {
			s.open = make(map[*socket]struct{})
		}
		s.open[w] = struct{}{}
		return w, nil
	}
}

// cutAll ends the connections and those still being dialled: whoever waits on one gets an error now.
func (s *sockets) cutAll() {
	s.mu.Lock()
	s.cut = true
	var all []*socket
	for c := range s.open {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.SetDeadline(time.Unix(1, 0))
		c.Close()
	}
}
