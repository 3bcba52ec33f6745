package pool

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead/fairlead/pool/internal/lsn"
)

// askLeader keeps asking Options.Leader until the pool closes.
func (p *Pool) askLeader() {
	failing := false
	for {
		ctx, cancel := context.WithTimeout(p.ctx, probeTimeout)
		name, err := p.callLeader(ctx)
		cancel()
		if p.ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			p.opt.log.Warn("Options.Leader fails; its last answer holds", "error", err)
		}
		failing = err != nil
		if err == nil {
			p.named(name)
		}
		wait := time.Duration(p.probeEvery.Load())
		if p.leader.Load() == nil {
			wait = min(wait, suspectDelay)
		}
		select {
		case <-time.After(wait):
		case <-p.ctx.Done():
			return
		}
	}
}

func (p *Pool) callLeader(ctx context.Context) (name string, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return p.opt.leader(ctx)
}

// named takes in what Options.Leader answered.
func (p *Pool) named(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if was := p.topo.named; was != nil && *was == name || p.closed.Load() {
		return
	}
	known := name == ""
	for _, n := range p.nodes {
		known = known || n.name == name
	}
	if known {
		p.opt.log.Info("the primary was named", "node", name)
	} else {
		p.opt.log.Error("Options.Leader names a server that is not configured: there is no primary", "node", name)
	}
	p.topo.named = &name
	p.electLocked()
	p.announceLocked()
}

// adoptAfter is how long the servers of the first primary's system are waited for before another system is taken for it.
const adoptAfter = 30 * time.Second

// adoptLocked says whether the system of o, a foreign one, takes the place of the one that was served so far, and forgets
// all that was known of that.
func (p *Pool) adoptLocked(n *node, o observation) bool {
	t := &p.topo
	if p.opt.system != 0 || !o.primary || o.at.Sub(t.heard) < adoptAfter {
		return false
	}
	p.opt.log.Error("another system is served from now on, since none of the old one's servers has answered for long",
		"node", n.name, "old", t.system, "new", o.id.system, "after", adoptAfter)
	p.leader.Store(nil)
	t.system, t.timeline, t.forks, t.exact, t.history = 0, 0, nil, false, nil
	clear(p.lastReplay)
	p.samples.forget()
	for _, other := range p.nodes {
		other.mu.Lock()
		if other.seen.id.system != o.id.system {
			other.seen, other.fresh, other.behind = observation{}, time.Time{}, lsn.Position{}
		}
		other.mu.Unlock()
	}
	return true
}
