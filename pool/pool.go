package pool

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/internal/telemetry"
	"github.com/fairlead/fairlead/pool/internal/lsn"
)

// Pool is a pool of connections to a PostgreSQL primary and its replicas. Its methods are those of [pgxpool.Pool] and run
// on the primary, wherever that is; [Pool.ReadOnly] reads from replicas. It is safe for concurrent use.
type Pool struct {
	opt   settled
	nodes []*node

	ctx    context.Context // ends at Close
	cancel context.CancelFunc
	closed atomic.Bool
	warned atomic.Bool   // of missing rights
	over   chan struct{} // closed when Close has finished
	probes sync.WaitGroup
	tasks  sync.WaitGroup
	probed sync.WaitGroup // until every server was probed once

	leader     atomic.Pointer[epoch] // nil: none
	tag        atomic.Pointer[string]
	leaderSeen atomic.Int64 // when it last answered, in unix nanoseconds
	probeEvery atomic.Int64
	samples    samples
	nudger     nudger
	auto       autoState
	spill      chan struct{} // permits for views on the primary; nil without replicas

	mu         sync.Mutex
	topo       topology
	lastReplay map[*node]lsn.Position // as a replica
	changed    chan struct{}

	counts counters
}

// New returns a pool for the servers in url, which may name several hosts, and in Options.Replicas. It waits for the first
// answer of each, for a second at most, and succeeds even if there is none: like pgxpool's, the pool connects when it can.
// ctx bounds this wait only.
//
// target_session_attrs in a URL is ignored, since roles are found out; pool_max_conns and its like hold for each server.
func New(ctx context.Context, url string, options Options) (*Pool, error) {
	base, err := pgxpool.ParseConfig(url)
	if err != nil {
		_, err2 := options.settle(nil, false)
		return nil, errors.Join(fmt.Errorf("pool: url: %w", err), err2)
	}
	base.ConnConfig.ValidateConnect = nil
	base.ConnConfig.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: suspectDelay}
	}
	return start(ctx, base, strings.Contains(url, "pool_max_conns"), options)
}

// NewWithConfig is New for a configuration made by [pgxpool.ParseConfig] and changed at will: hooks, types, TLS. It holds
// for all servers; config.MaxConns is the default of Options.MaxConns. A ValidateConnect that target_session_attrs has set
// is ignored. config is copied.
func NewWithConfig(ctx context.Context, config *pgxpool.Config, options Options) (*Pool, error) {
	if config == nil || config.ConnConfig == nil {
		return nil, fmt.Errorf("pool: config is nil: must come from pgxpool.ParseConfig")
	}
	base := config.Copy()
	if strings.Contains(base.ConnString(), "target_session_attrs") {
		base.ConnConfig.ValidateConnect = nil
	}
	return start(ctx, base, true, options)
}

func start(ctx context.Context, base *pgxpool.Config, connsInConfig bool, options Options) (*Pool, error) {
	opt, err := options.settle(base, connsInConfig)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p := &Pool{opt: opt, over: make(chan struct{}), changed: make(chan struct{}), lastReplay: make(map[*node]lsn.Position)}
	p.topo.system = opt.system
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.probeEvery.Store(int64(probeInterval))
	for _, c := range opt.configs {
		if c.ConnConfig.ConnectTimeout <= 0 {
			c.ConnConfig.ConnectTimeout = connectTimeout
		}
		p.nodes = append(p.nodes, newNode(p, c))
	}
	if len(p.nodes) > 1 {
		p.spill = make(chan struct{}, max(1, (int(opt.configs[0].MaxConns)+4)/5))
	}
	p.probed.Add(len(p.nodes))
	for _, n := range p.nodes {
		p.probes.Go(func() { n.watch(p.ctx) })
	}
	if opt.leader != nil {
		p.probes.Go(p.askLeader)
	}
	first := make(chan struct{})
	go func() { // every probe ends, within its time-out
		p.probed.Wait()
		close(first)
	}()
	select {
	case <-first:
	case <-ctx.Done():
		p.Close()
		return nil, ctx.Err()
	}
	return p, nil
}

// Close closes the pool: calls fail with [ErrClosed] from now on. It waits, like pgxpool's, until every connection was
// given back, and for everything the pool has running. Closing again waits too.
func (p *Pool) Close() {
	p.mu.Lock()
	first := !p.closed.Swap(true)
	if first {
		p.cancel()
		p.announceLocked()
	}
	p.mu.Unlock()
	if !first {
		<-p.over
		return
	}
	defer close(p.over)
	p.probes.Wait()
	p.mu.Lock()
	if e := p.topo.current; e != nil {
		e.capture.stop()
		p.tasks.Go(func() { closePool(e.pool) })
	}
	for _, n := range p.nodes {
		n.mu.Lock()
		r := n.reader
		n.reader = nil
		n.mu.Unlock()
		if r != nil {
			p.tasks.Go(func() { closePool(r) })
		}
	}
	p.leader.Store(nil)
	p.mu.Unlock()
	p.tasks.Wait()
}

func closePool(c *connPool) {
	c.node.mu.Lock()
	up := c.node.up
	c.node.mu.Unlock()
	if !up {
		c.socks.cutAll() // nobody answers a goodbye there
	}
	c.queue.close()
	c.Close()
}

// Ping succeeds if the primary answers a probe now; it takes no connection from the pool, so saturation does not fail it.
func (p *Pool) Ping(ctx context.Context) error {
	asked := time.Now().UnixNano()
	p.suspect()
	timer := time.NewTimer(2 * probeTimeout)
	defer timer.Stop()
	for {
		change := p.changes()
		e := p.leader.Load()
		switch {
		case p.closed.Load():
			return ErrClosed
		case e == nil:
			return p.noPrimary()
		case p.leaderSeen.Load() >= asked:
			return nil
		}
		select {
		case <-change:
		case <-timer.C:
			return p.noPrimary()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Reset closes all idle connections, and those in use when they come back.
func (p *Pool) Reset() {
	if e := p.leader.Load(); e != nil {
		e.pool.Reset()
	}
	for _, n := range p.nodes {
		n.mu.Lock()
		r := n.reader
		n.mu.Unlock()
		if r != nil {
			r.Reset()
		}
	}
}

// Samples yields the pool's numbers for the service's page and metrics.
func (p *Pool) Samples() iter.Seq[telemetry.Sample] {
	return func(yield func(telemetry.Sample) bool) {
		name := telemetry.Attr{Key: "pool", Value: p.opt.name}
		st := p.Stats()
		for s := range telemetry.Samples(st, name) {
			if !yield(s) {
				return
			}
		}
		for _, n := range st.Nodes {
			for s := range telemetry.Samples(n.numbers(), name, telemetry.Attr{Key: "node", Value: n.Name},
				telemetry.Attr{Key: "role", Value: n.Role}) {
				if !yield(s) {
					return
				}
			}
		}
	}
}
