package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/pool/internal/lsn"
)

// read is one read of a view on its way to a server.
type read struct {
	db    *Pool
	ctx   context.Context
	opt   ReadOptions
	scope *causal.Scope

	started  time.Time
	tried    []*node // failed or fell short; not asked again
	short    []*node // said in band that they are behind, so they are worth a wait
	waited   bool
	settled  bool // was waited for
	attempts int
}

// target is where a read goes, and what has to be shown there.
type target struct {
	lease
	tag     string
	guard   bool         // the server has to say itself that it has reached bound
	bound   lsn.Position // zero: any will do
	spilled bool         // it holds a permit
	began   time.Time
	several bool         // see several.go
	blind   bool         // see blind.go
	shown   lsn.Position // what a server of several said before the read
	// timeline is what a server of several has to be on
	timeline uint32
}

func (t *target) end() (lost bool) {
	if t.spilled {
		t.spilled = false
		<-t.node.db.spill
	}
	return t.lease.end()
}

// demand is what the scope asks for, in terms of the timeline in force.
type demand struct {
	tag      string
	bound    lsn.Position
	timeline uint32 // that a replica must be on
	settled  bool
}

// next returns the server for the next attempt.
func (r *read) next() (target, error) {
	p := r.db
	if r.started.IsZero() {
		r.started = time.Now()
	}
	var change <-chan struct{} // asked for before the last look around, and only if one was in vain
	for {
		if p.closed.Load() {
			return target{}, ErrClosed
		}
		d, err := r.demand()
		if err != nil {
			return target{}, err
		}
		if d.settled {
			if t, ok, err := r.replica(d); ok || err != nil {
				return t, err
			}
		}
		if r.opt.RequireReplica {
			if !d.settled && !r.settled {
				r.settle()
				continue
			}
			return target{}, r.stale("no replica qualifies")
		}
		e := p.leader.Load()
		if e != nil && e.timeline >= d.bound.Timeline && !slices.Contains(r.tried, e.node) {
			t, err := r.primary(e, d)
			if err == nil || !r.again(err) {
				return t, err
			}
			continue
		}
		// Nothing will do now. A primary that is being looked for might.
		if change == nil {
			change = p.changes()
			continue
		}
		left := p.opt.failoverTimeout - time.Since(r.started)
		if left <= 0 || p.hopeless() {
			return target{}, r.stale(p.states())
		}
		p.suspect()
		timer := time.NewTimer(min(left, suspectDelay))
		select {
		case <-change:
			timer.Stop()
		case <-timer.C: // replicas grow fresher without an announcement
		case <-r.ctx.Done():
			timer.Stop()
			return target{}, r.ctx.Err()
		}
		r.tried, change = r.tried[:0], nil
	}
}

// settle waits until the positions of the scope's writes are known, for ReadOptions.WaitUpTo at most.
func (r *read) settle() {
	r.settled = true
	ctx, cancel := context.WithTimeout(r.ctx, max(r.opt.WaitUpTo, 0))
	defer cancel()
	r.scope.Written(ctx)
}

func (r *read) stale(why string) error {
	r.db.counts.readsStale.Add(1)
	return fmt.Errorf("%w: %s: %s", ErrStale, r.db.opt.name, why)
}

// demand reads the scope's bound. A position on an older timeline counts if it lies before the fork; otherwise the scope's
// owner has to know.
func (r *read) demand() (demand, error) {
	p := r.db
	d := demand{settled: true}
	if r.scope == nil {
		return d, nil
	}
	p.mu.Lock()
	t := p.topo
	system := t.system
	if system == 0 { // there was no primary yet
		system = p.anySystem()
		t.timeline = p.highestLocked(system)
	}
	p.mu.Unlock()
	d.tag, d.timeline = identity{system: system}.tag(), t.timeline
	dom := r.scope.Domain(d.tag)
	text, settled := dom.Bound()
	d.settled = settled
	if text == "" {
		return d, nil
	}
	bound, err := lsn.Parse(text)
	if err != nil { // of another version, or not ours: only the primary is sure to have it
		d.settled = false
		return d, nil
	}
	d.bound = bound
	if bound.Timeline >= t.timeline {
		d.timeline = bound.Timeline
		return d, nil
	}
	if t.history != nil {
		select {
		case <-t.history: // within connectTimeout
		case <-r.ctx.Done():
			return d, r.ctx.Err()
		}
	}
	p.mu.Lock()
	survived, known := p.topo.forks[bound.Timeline]
	exact := p.topo.exact
	p.mu.Unlock()
	if known && bound.LSN <= survived {
		return d, nil
	}
	e := p.leader.Load()
	if e == nil {
		d.settled = false // nobody can say; the primary will have to
		return d, nil
	}
	got := make(chan string, 1)
	e.capture.after(func(position string) { got <- position })
	timer := time.NewTimer(probeTimeout)
	defer timer.Stop()
	select {
	case position := <-got:
		dom.Wrote(position) // as written, so that it travels where the lost position did
	case <-timer.C: // the scope keeps its position and is told again: to serve the read now would hide the loss
	case <-r.ctx.Done():
		return d, r.ctx.Err()
	}
	p.counts.causalityLost.Add(1)
	return d, &CausalityLostError{Proven: known && exact}
}

func (p *Pool) anySystem() uint64 {
	for _, n := range p.nodes {
		n.mu.Lock()
		system := n.seen.id.system
		n.mu.Unlock()
		if system != 0 {
			return system
		}
	}
	return 0
}

// candidate is a replica that is fresh enough by time.
type candidate struct {
	node   *node
	pool   *connPool
	run    identity // of which pos and the freshness are known
	pos    lsn.Position
	behind bool

	several, blind, out bool
	cost, ramp          float64
}

func (r *read) candidates(d demand) []candidate {
	p := r.db
	now, word := time.Now(), p.lastWord()
	out := make([]candidate, 0, 4)
	for _, n := range p.nodes {
		if slices.Contains(r.tried, n) {
			continue
		}
		n.mu.Lock()
		c := candidate{node: n, run: n.seen.id, pos: n.seen.pos, behind: n.behind != lsn.Position{}, several: n.several,
			blind: n.seen.blind, out: n.health.isOut(now), cost: n.health.cost, ramp: n.health.ramp(now)}
		ok := n.up && !n.seen.primary && n.reader != nil && (n.several ||
			(r.opt.MaxStaleness < 0 || !n.fresh.IsZero() && word.Sub(n.fresh) <= r.opt.MaxStaleness) &&
				(r.scope == nil || n.seen.pos.Timeline == d.timeline))
		if ok {
			c.pool = n.reader
		}
		n.mu.Unlock()
		if ok {
			out = append(out, c)
		}
	}
	return spare(out)
}

// replica picks a replica that has, or may have, what the read demands.
func (r *read) replica(d demand) (target, bool, error) {
	for {
		all := r.candidates(d)
		need := d.bound
		need.Timeline = min(need.Timeline, d.timeline)
		sure := make([]candidate, 0, 4)
		maybe := make([]candidate, 0, 4)
		for _, c := range all {
			switch {
			case c.several && slices.Contains(r.short, c.node):
			case c.pos.Reaches(need):
				sure = append(sure, c)
			case !c.behind && !slices.Contains(r.short, c.node):
				maybe = append(maybe, c)
			}
		}
		guard := len(sure) == 0
		from := sure
		if guard {
			from = maybe
		}
		if len(from) == 0 {
			if r.waited || len(r.short) == 0 || r.opt.WaitUpTo < 0 || len(all) == 0 {
				for _, n := range r.short {
					n.fellBehind(need)
				}
				if len(all) > 0 {
					r.db.wanted(need)
				}
				return target{}, false, nil
			}
			r.waited = true
			r.db.counts.readsWaited.Add(1)
			r.db.wanted(need)
			r.await(all, need)
			r.short = slices.DeleteFunc(r.short, func(n *node) bool { // another of its servers may have it
				return slices.ContainsFunc(all, func(c candidate) bool { return c.node == n && c.several })
			})
			continue
		}
		c := pick(from)
		l, err := c.pool.lease(r.ctx, nil, true)
		if err != nil {
			if r.ctx.Err() != nil {
				return target{}, false, r.ctx.Err()
			}
			if errors.Is(err, ErrSaturated) && len(all) == 1 {
				return target{}, false, err // the primary is not there to take a replica's load
			}
			if !errors.Is(err, ErrSaturated) {
				c.node.ailed()
			}
			c.node.kick()
			r.tried = append(r.tried, c.node)
			continue
		}
		t := target{lease: l, tag: d.tag, bound: need, guard: guard, began: time.Now(), several: c.several, blind: c.blind,
			timeline: d.timeline}
		t.guard = t.guard || t.several || c.unproven(t.state.id)
		return t, true, nil
	}
}

// unproven says that a connection leads to another run of the server than the position and the age are known of. The server
// may have restarted, and have been probed, since the candidate was looked at.
func (c *candidate) unproven(run identity) bool { return run != c.run }

// ailed notes that the node failed a read for a reason of its own.
func (n *node) ailed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.health.failed(time.Now()) {
		n.db.opt.log.Warn("reads fail on a replica; it is left out for a while", "node", n.name, "until", n.health.out)
	}
}

func (n *node) run() identity {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen.id
}

// await waits until one of the replicas has reached need, for ReadOptions.WaitUpTo at most.
func (r *read) await(all []candidate, need lsn.Position) {
	timer := time.NewTimer(r.opt.WaitUpTo)
	defer timer.Stop()
	for _, c := range all {
		c.node.mu.Lock()
		c.node.follow++
		c.node.mu.Unlock()
		c.node.kick()
	}
	defer func() {
		for _, c := range all {
			c.node.mu.Lock()
			c.node.follow--
			c.node.mu.Unlock()
		}
	}()
	for {
		moved := make([]<-chan struct{}, 2)
		for i, c := range all {
			c.node.mu.Lock()
			reached := c.node.up && !c.node.seen.primary && c.node.seen.pos.Reaches(need)
			if i < len(moved) {
				moved[i] = c.node.moved
			}
			c.node.mu.Unlock()
			if reached {
				return
			}
		}
		var more <-chan time.Time
		if len(all) > len(moved) {
			more = time.After(time.Millisecond) // only two are listened to
		}
		select {
		case <-moved[0]:
		case <-moved[1]:
		case <-more:
		case <-timer.C:
			return
		case <-r.ctx.Done():
			return
		}
	}
}

// primary takes a connection to the primary for a read that no replica serves. If there are replicas, what they cannot serve
// may take a fifth of the primary's connections.
func (r *read) primary(e *epoch, d demand) (target, error) {
	p := r.db
	t := target{tag: e.tag, blind: e.blind}
	if d.settled && p.spill != nil {
		if err := r.permit(); err != nil {
			return target{}, err
		}
		t.spilled = true
		p.counts.readsSpilled.Add(1)
	}
	l, err := e.pool.lease(r.ctx, e, true)
	if err != nil {
		if t.spilled {
			<-p.spill
		}
		r.tried = append(r.tried, e.node)
		return target{}, err
	}
	t.lease = l
	if p.superseded(e) {
		t.end()
		return target{}, fmt.Errorf("%w: %s", errMoved, e.node.name)
	}
	return t, nil
}

func (r *read) permit() error {
	select {
	case r.db.spill <- struct{}{}:
		return nil
	default:
	}
	var timeout <-chan time.Time
	if d := r.db.opt.acquireTimeout; d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case r.db.spill <- struct{}{}:
		return nil
	case <-timeout:
		return r.stale("no replica qualifies, and the primary's share for such reads is in use")
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// errShort and errRole: the answer is thrown away and the read goes elsewhere.
var (
	errShort = errors.New("pool: the replica is behind what the scope has seen")
	errRole  = errors.New("pool: the server changed its role")
)

// again says whether a read that failed before its first row may be tried elsewhere.
func (r *read) again(err error) bool {
	p := r.db
	if r.ctx.Err() != nil || p.closed.Load() || time.Since(r.started) > p.opt.failoverTimeout+p.opt.acquireTimeout {
		return false
	}
	switch {
	case errors.Is(err, errShort):
		return true
	case errors.Is(err, errRole), errors.Is(err, errLost):
		p.suspect()
	case isConflict(err), pgCode(err) == "57P01", pgCode(err) == "57P03", pgCode(err) == "57P02", pgCode(err) == "53300":
	case unsent(err) && !permanent(err):
		p.suspect()
	default:
		return false
	}
	r.attempts++
	if r.attempts > 2*len(p.nodes)+2 {
		select { // something is wrong everywhere
		case <-r.ctx.Done():
			return false
		case <-time.After(time.Duration(10+rand.IntN(40)) * time.Millisecond):
		}
	}
	p.counts.retries.Add(1)
	return true
}
