package pool

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/fairlead/fairlead/pool/internal/dialgate"
	"github.com/fairlead/fairlead/pool/internal/lsn"
)

// epoch is the time of one run of one primary. A new one has a new pool: a connection never changes its epoch.
type epoch struct {
	db       *Pool
	number   uint64
	node     *node
	id       identity
	timeline uint32
	tag      string
	blind    bool // the service has no positions
	pool     *connPool
	capture  *capture
}

// topology is what the pool knows about roles. Pool.topo holds it under Pool.mu.
type topology struct {
	system   uint64            // of the first primary; other systems are refused
	timeline uint32            // the highest seen: nothing is started on an older one
	current  *epoch            // the last; it may be out of reach
	forks    map[uint32]uint64 // how much of an older timeline's log is known to have survived
	exact    bool              // forks is the server's own history, so what lies past it is lost
	history  chan struct{}     // closed when forks is as complete as it will get
	number   uint64
	heard    time.Time // when a server of system last answered
	named    *string   // what Options.Leader has answered; nil: nothing yet
}

// grace is how long statements in flight on the primary of an earlier epoch may take to finish.
const grace = time.Second

// observe takes in what a probe of n found.
func (p *Pool) observe(n *node, o observation) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &p.topo
	if t.system != 0 && o.id.system != t.system && !p.adoptLocked(n, o) {
		p.lostLocked(n, fmt.Errorf("it is system %d, and this pool serves system %d", o.id.system, t.system))
		return
	}
	t.heard = time.Now()
	n.mu.Lock()
	was, wasUp := n.seen, n.up
	if n.distinguishLocked(o, was.id) {
		p.opt.log.Info("the address hides several servers; each read asks its own", "node", n.name)
	}
	if !wasUp && !was.at.IsZero() {
		n.health.came(o.at)
	}
	if o.took > 0 {
		n.health.took(o.took, o.at)
	}
	if !o.primary && !o.sure && t.system != 0 && p.leader.Load() == nil {
		// It may have found a new primary that is not known here yet: then this position is not on the timeline it shows.
		if o.pos.LSN = 0; was.id == o.id && was.pos.Timeline == o.pos.Timeline {
			o.pos.LSN = was.pos.LSN
		}
	}
	if wasUp && was.id == o.id && !was.primary && !o.primary { // the same run: neither may go back
		o.pos.Timeline = max(o.pos.Timeline, was.pos.Timeline)
		o.pos.LSN = max(o.pos.LSN, was.pos.LSN)
	} else {
		n.fresh, n.behind = time.Time{}, lsn.Position{}
	}
	n.up, n.reason, n.down = true, nil, time.Time{}
	if o.primary || o.blind {
		n.seen, n.fresh = o, o.at
	} else {
		l := o.pos.LSN
		n.seen = o
		n.advanceLocked(l)
	}
	n.mu.Unlock()
	if t.system != 0 {
		t.timeline = max(t.timeline, o.pos.Timeline)
	}
	p.electLocked()
	if e := t.current; o.primary && e != nil && e.node == n && e.id == o.id {
		if p.leaderSeen.Swap(o.at.UnixNano()) == 0 {
			p.suspect() // replicas probed before can show now how fresh they are
		}
		p.samples.add(o.at, o.pos)
	}
	p.announceLocked()
	if !wasUp || was.primary != o.primary || was.id != o.id {
		role := "replica"
		if o.primary {
			role = "primary"
		}
		p.opt.log.Info("server is up", "node", n.name, "role", role, "timeline", o.pos.Timeline)
	}
}

// lost takes in that n did not answer.
func (p *Pool) lost(n *node, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lostLocked(n, why)
}

func (p *Pool) lostLocked(n *node, why error) {
	n.mu.Lock()
	wasUp, first := n.up, n.reason == nil
	n.up, n.reason = false, why
	if n.down.IsZero() {
		n.down = time.Now()
	}
	n.mu.Unlock()
	if wasUp || first {
		p.opt.log.Warn("server is down", "node", n.name, "error", why)
	}
	p.electLocked()
	p.announceLocked()
}

// highestLocked returns the highest timeline that a server of system shows.
func (p *Pool) highestLocked(system uint64) (timeline uint32) {
	for _, n := range p.nodes {
		n.mu.Lock()
		if n.seen.id.system == system {
			timeline = max(timeline, n.seen.pos.Timeline)
		}
		n.mu.Unlock()
	}
	return timeline
}

// electLocked finds the primary among the servers that are up: not in recovery, on the highest timeline seen of their system.
// Two of those are none. While no system was chosen yet, the first server in order that qualifies chooses it.
func (p *Pool) electLocked() {
	t := &p.topo
	var best *node
	var found observation
	tie := false
	for _, n := range p.nodes {
		n.mu.Lock()
		up, seen := n.up, n.seen
		n.mu.Unlock()
		highest := t.timeline
		if t.system == 0 {
			highest = p.highestLocked(seen.id.system)
		}
		switch {
		case t.named != nil && n.name != *t.named:
		case !up || !seen.primary || t.system != 0 && seen.id.system != t.system || seen.pos.Timeline < highest:
		case best != nil && seen.id.system != found.id.system: // not the system that was chosen
		case best == nil:
			best, found = n, seen
		case seen.id == found.id: // one server under two addresses
			if e := t.current; e != nil && e.node == n {
				best = n
			}
		default:
			tie = true
		}
	}
	if tie {
		if p.leader.Load() != nil {
			p.opt.log.Error("two primaries on one timeline: none is used")
		}
		best = nil
	}
	if best == nil {
		if p.leader.Swap(nil) != nil {
			p.opt.log.Warn("no primary")
		}
		p.tendReadersLocked()
		return
	}
	e := t.current
	if e == nil || e.node != best || e.id != found.id || e.timeline != found.pos.Timeline {
		e = p.beginEpochLocked(best, found)
	}
	if e != nil {
		p.leader.Store(e)
	}
	p.tendReadersLocked()
}

func (p *Pool) beginEpochLocked(n *node, o observation) *epoch {
	t := &p.topo
	e := &epoch{db: p, number: t.number + 1, node: n, id: o.id, timeline: o.pos.Timeline, tag: o.id.tag(), blind: o.blind}
	accept := func(id identity, replica bool) error {
		if id != e.id || replica {
			return fmt.Errorf("%w: %s", errMoved, n.name)
		}
		return nil
	}
	var err error
	if e.pool, err = n.newConnPool(p.ctx, accept); err != nil {
		p.opt.log.Error("pool cannot be made", "node", n.name, "error", err)
		return nil
	}
	e.capture = newCapture(e)
	old := t.current
	t.number, t.current, t.system = e.number, e, o.id.system
	t.timeline = max(t.timeline, e.timeline)
	p.tag.Store(&e.tag)
	if old == nil || old.timeline != e.timeline || old.id.system != e.id.system {
		p.learnForksLocked(e, old)
	}
	p.opt.log.Info("primary found", "node", n.name, "epoch", e.number, "timeline", e.timeline)
	if old != nil {
		p.counts.failovers.Add(1)
		p.retire(old)
	}
	return e
}

// retire ends an epoch in the background: what is in flight may finish within the grace period.
func (p *Pool) retire(e *epoch) {
	e.capture.stop()
	p.tasks.Go(func() { e.pool.close(grace) })
}

// learnForksLocked finds out how much of the older timelines' log is part of e's history: from the server, if the role may
// ask (REPLICATION), else what the promoted server was seen to have replayed before.
func (p *Pool) learnForksLocked(e *epoch, old *epoch) {
	t := &p.topo
	t.exact = e.timeline == 1
	if t.forks == nil {
		t.forks = make(map[uint32]uint64)
	}
	if old != nil {
		if last, ok := p.lastReplay[e.node]; ok && last.Timeline == old.timeline {
			t.forks[old.timeline] = last.LSN
		}
	}
	if e.timeline == 1 {
		t.history = closed
		return
	}
	done := make(chan struct{})
	t.history = done
	p.tasks.Go(func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(p.ctx, connectTimeout)
		defer cancel()
		forks, err := e.node.history(ctx, e.timeline)
		if err != nil {
			p.opt.log.Warn("timeline history is not readable; positions from before the failover may not be provable. "+
				"Remedy: ALTER ROLE … REPLICATION", "node", e.node.name, "error", err)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.topo.current == e {
			p.topo.forks = forks
			p.topo.exact = true
		}
	})
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// history asks the server for the forks that led to a timeline.
func (n *node) history(ctx context.Context, timeline uint32) (map[uint32]uint64, error) {
	c := n.config.ConnConfig.Copy()
	if n.config.BeforeConnect != nil {
		if err := n.config.BeforeConnect(ctx, c); err != nil {
			return nil, err
		}
	}
	c.OnNotice = nil
	c.RuntimeParams["replication"] = "database"
	conn, err := pgconn.ConnectConfig(dialgate.Urgent(ctx), &c.Config)
	if err != nil {
		return nil, err
	}
	defer hangUp(conn)
	row, err := oneRow(ctx, conn, fmt.Sprintf("TIMELINE_HISTORY %d", timeline))
	if err != nil {
		return nil, err
	}
	if len(row) != 2 {
		return nil, fmt.Errorf("pool: %d columns of timeline history", len(row))
	}
	return lsn.ParseHistory(row[1])
}

// tendReadersLocked gives every replica a pool to read from, and takes it from what is no replica of this system.
func (p *Pool) tendReadersLocked() {
	for _, n := range p.nodes {
		n.mu.Lock()
		wanted := n.up && !n.seen.primary
		gone := !n.up && time.Since(n.down) >= grace // for a shorter absence the connections are kept
		switch {
		case wanted && n.reader == nil:
			system := n.seen.id.system
			accept := func(id identity, _ bool) error {
				if id.system != system {
					return fmt.Errorf("%w: %s", errMoved, n.name)
				}
				return nil
			}
			if r, err := n.newConnPool(p.ctx, accept); err != nil {
				p.opt.log.Error("pool cannot be made", "node", n.name, "error", err)
			} else {
				n.reader = r
			}
		case (gone || n.up && n.seen.primary) && n.reader != nil:
			r := n.reader
			n.reader = nil
			p.tasks.Go(func() {
				if gone {
					r.socks.cutAll() // who waits there has waited long enough
				}
				r.close(grace)
			})
		}
		if n.up && !n.seen.primary {
			p.lastReplay[n] = n.seen.pos
		}
		n.mu.Unlock()
	}
}

// announceLocked wakes whoever waits for a server.
func (p *Pool) announceLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Pool) changes() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// interval is the time until the next probe of n.
func (p *Pool) interval(n *node) time.Duration {
	n.mu.Lock()
	up, behind := n.up, n.behind
	n.mu.Unlock()
	base := time.Duration(p.probeEvery.Load())
	switch {
	case p.leader.Load() == nil || !up:
		return min(base, suspectDelay)
	case behind != lsn.Position{}:
		return min(base, 20*time.Millisecond)
	}
	return base
}

// suspect asks for probes of everything now: something went wrong that a change of roles would explain.
func (p *Pool) suspect() {
	for _, n := range p.nodes {
		n.kick()
	}
}
