package pool

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/pool/internal/lsn"
)

// unprobed returns a pool whose servers answer nothing: what it knows of them is what a test tells it.
func unprobed(t *testing.T, servers int) *Pool {
	t.Helper()
	p := &Pool{over: make(chan struct{}), changed: make(chan struct{}), lastReplay: make(map[*node]lsn.Position)}
	p.opt.log = slog.New(slog.DiscardHandler)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	for range servers {
		c, err := pgxpool.ParseConfig("postgres://nobody@127.0.0.1:1/none?sslmode=disable")
		if err != nil {
			t.Fatal(err)
		}
		p.nodes = append(p.nodes, newNode(p, c))
	}
	t.Cleanup(p.Close)
	return p
}

func seen(system uint64, primary bool, timeline uint32, at uint64) observation {
	return observation{id: identity{system: system, start: int64(system)}, primary: primary, at: time.Now(),
		pos: lsn.Position{Timeline: timeline, LSN: at}}
}

// A server of another system, on a timeline of its own, keeps nobody from being the primary.
func TestForeignTimeline(t *testing.T) {
	p := unprobed(t, 3)
	foreign, primary, replica := p.nodes[0], p.nodes[1], p.nodes[2]
	p.observe(foreign, seen(2, false, 7, 100))
	p.observe(primary, seen(1, true, 1, 100))
	e := p.leader.Load()
	if e == nil || e.node != primary {
		t.Fatalf("leader %+v", e)
	}
	p.observe(foreign, seen(2, false, 8, 100))
	p.observe(replica, seen(1, false, 1, 100))
	if p.leader.Load() != e || p.topo.timeline != 1 {
		t.Errorf("leader %+v, timeline %d", p.leader.Load(), p.topo.timeline)
	}
}

// A primary on an older timeline than a replica of its system is not the primary, from the first moment.
func TestOlderTimelineBeforeTheFirstPrimary(t *testing.T) {
	p := unprobed(t, 3)
	p.observe(p.nodes[0], seen(1, false, 2, 100))
	p.observe(p.nodes[1], seen(1, true, 1, 100))
	if e := p.leader.Load(); e != nil {
		t.Fatalf("leader %+v", e)
	}
	promoted := seen(1, true, 2, 100)
	promoted.id.start++
	p.observe(p.nodes[2], promoted)
	if e := p.leader.Load(); e == nil || e.node != p.nodes[2] {
		t.Fatalf("leader %+v", e)
	}
}

// What is known of one run of a server proves nothing of the next, even if the next was probed before the connection came.
func TestCandidateOfAnEarlierRun(t *testing.T) {
	p := &Pool{}
	n := newTestReplica(p)
	r := &read{db: p, ctx: t.Context(), opt: ReadOptions{MaxStaleness: -1}}
	all := r.candidates(demand{})
	if len(all) != 1 {
		t.Fatal(all)
	}
	if all[0].unproven(n.seen.id) {
		t.Error("the run that it is known of is doubted")
	}
	n.seen = observation{id: identity{system: 1, start: 2}, pos: lsn.Position{Timeline: 1, LSN: 10}} // restarted, and behind
	if !all[0].unproven(n.seen.id) {
		t.Error("the position of the earlier run counts for the later")
	}
}

func newTestReplica(p *Pool) *node {
	n := &node{db: p, wake: make(chan struct{}, 1), moved: make(chan struct{}), reader: new(connPool)}
	n.up, n.seen = true, observation{id: identity{system: 1, start: 1}, pos: lsn.Position{Timeline: 1, LSN: 100}}
	p.nodes = append(p.nodes, n)
	return n
}

// A read whose scope has lost a position is told so, even if the new primary does not say where it is.
func TestLossIsToldWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &Pool{}
		p.topo = topology{system: 1, timeline: 2, forks: map[uint32]uint64{1: 100}, exact: true}
		p.leader.Store(&epoch{db: p, timeline: 2, capture: &capture{wake: make(chan struct{}, 1)}}) // nobody runs it
		ctx, scope := causal.Begin(t.Context())
		scope.Domain(identity{system: 1}.tag()).Wrote(lsn.Position{Timeline: 1, LSN: 200}.String())
		r := &read{db: p, ctx: ctx, scope: scope}
		for range 2 {
			_, err := r.demand()
			var lost *CausalityLostError
			if !errors.As(err, &lost) || !lost.Proven {
				t.Errorf("%v", err)
			}
		}
	})
}

// Options.Leader outranks what the servers say, but not their timeline.
func TestNamedLeader(t *testing.T) {
	p := unprobed(t, 2)
	for i, n := range p.nodes {
		n.name = []string{"a:1", "b:1"}[i]
	}
	a, b := seen(1, true, 1, 100), seen(1, true, 1, 100)
	b.id.start++
	p.observe(p.nodes[0], a)
	p.observe(p.nodes[1], b)
	if e := p.leader.Load(); e != nil {
		t.Fatalf("two primaries on one timeline: leader %s", e.node.name)
	}
	for _, name := range []string{"b:1", "a:1"} {
		p.named(name)
		if e := p.leader.Load(); e == nil || e.node.name != name {
			t.Errorf("%s was named: %+v", name, e)
		}
	}
	for _, name := range []string{"", "c:1"} {
		p.named(name)
		if e := p.leader.Load(); e != nil {
			t.Errorf("%q was named: %s", name, e.node.name)
		}
	}
	p.named("a:1")
	b.pos.Timeline = 2
	p.observe(p.nodes[1], b)
	if e := p.leader.Load(); e != nil {
		t.Errorf("%s is on an older timeline", e.node.name)
	}
	p.named("b:1")
	if e := p.leader.Load(); e == nil || e.node.name != "b:1" || e.timeline != 2 {
		t.Errorf("leader %+v", e)
	}
}

// Another system is refused while the first may come back, for ever if it was pinned, and then taken with nothing left of the
// first.
func TestAnotherSystem(t *testing.T) {
	for _, pinned := range []uint64{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			p := unprobed(t, 2)
			p.opt.system, p.topo.system = pinned, pinned
			old, next := p.nodes[0], p.nodes[1]
			p.observe(old, seen(1, true, 5, 1000))
			first := p.leader.Load()
			if first == nil {
				t.Fatal("no leader")
			}
			p.observe(next, seen(2, true, 1, 100))
			if p.leader.Load() != first {
				t.Error("another system's primary is taken at once")
			}
			p.lost(old, errors.New("gone"))
			time.Sleep(adoptAfter - time.Second)
			p.observe(next, seen(2, true, 1, 100))
			if e := p.leader.Load(); e != nil {
				t.Errorf("too early: %+v", e)
			}
			p.observe(old, seen(1, false, 5, 1000)) // as a replica it still counts
			p.lost(old, errors.New("gone"))
			time.Sleep(adoptAfter - time.Second)
			p.observe(next, seen(2, true, 1, 100))
			if e := p.leader.Load(); e != nil {
				t.Errorf("too early: %+v", e)
			}
			time.Sleep(2 * time.Second)
			p.observe(next, seen(2, false, 1, 100))
			if e := p.leader.Load(); e != nil {
				t.Errorf("a replica was taken: %+v", e)
			}
			p.observe(next, seen(2, true, 1, 100))
			e := p.leader.Load()
			if pinned != 0 {
				if e != nil {
					t.Errorf("the pinned system was given up: %+v", e)
				}
				return
			}
			if e == nil || e.node != next || e.id.system != 2 || e.timeline != 1 || p.topo.timeline != 1 || e.number != 2 {
				t.Errorf("leader %+v, timeline %d", e, p.topo.timeline)
			}
			p.observe(old, seen(1, true, 6, 2000))
			if p.leader.Load() != e {
				t.Error("the old system came back and was taken")
			}
		})
	}
}

// A server that restarts is one server; an address at which a run goes on after another was met hides several.
func TestSeveralBehindOneAddress(t *testing.T) {
	p := unprobed(t, 1)
	n := p.nodes[0]
	at := func(start int64) observation {
		time.Sleep(time.Microsecond)
		o := seen(1, false, 1, 100)
		o.id.start = start
		return o
	}
	p.observe(n, at(1))
	n.met(identity{1, 1})
	p.observe(n, at(1))
	n.met(identity{1, 2}) // restarted
	p.observe(n, at(2))
	p.observe(n, at(2))
	if n.several {
		t.Fatal("a restart is taken for several servers")
	}
	late := at(2)
	time.Sleep(time.Millisecond)
	n.met(identity{1, 3})
	p.observe(n, late) // sent before: it may have restarted since
	if n.several {
		t.Fatal("a probe from before is taken for a proof")
	}
	p.observe(n, at(2))
	if !n.several {
		t.Error("the run before goes on, and was not noticed")
	}
}
