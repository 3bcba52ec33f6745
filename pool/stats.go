package pool

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/pool/internal/lsn"
)

type counters struct {
	readsReplica, readsPrimary, readsSpilled, readsWaited, readsStale atomic.Uint64
	guards, staleAvoided                                              atomic.Uint64
	captures, nudges                                                  atomic.Uint64
	retries, saturated, failovers, unknown, causalityLost             atomic.Uint64
}

// Stats is a snapshot of a [Pool]'s numbers.
type Stats struct {
	Epoch         uint64 `json:"epoch" metric:"fairlead.pool.epoch,max"`                            // how many primaries there have been
	ReadsReplica  uint64 `json:"reads_replica" metric:"fairlead.pool.route,counter,target=replica"` // reads of views
	ReadsPrimary  uint64 `json:"reads_primary" metric:"fairlead.pool.route,counter,target=primary"` // reads of views, spilled ones included
	ReadsSpilled  uint64 `json:"reads_spilled" metric:"fairlead.pool.spilled,counter"`              // to the primary for want of a replica that qualifies
	ReadsWaited   uint64 `json:"reads_waited" metric:"fairlead.pool.waited,counter"`                // for a replica to catch up
	ReadsStale    uint64 `json:"reads_stale" metric:"fairlead.pool.stale,counter"`                  // refused with ErrStale
	Guards        uint64 `json:"guards" metric:"fairlead.pool.guard,counter"`                       // reads that asked the replica how far it is
	StaleAvoided  uint64 `json:"stale_avoided" metric:"fairlead.pool.stale.avoided,counter"`        // answers thrown away because the replica was behind the scope
	Captures      uint64 `json:"captures" metric:"fairlead.pool.capture,counter"`                   // position queries; each serves all writes before it
	Nudges        uint64 `json:"nudges" metric:"fairlead.pool.nudge,counter"`                       // log records written to make a position reachable
	Retries       uint64 `json:"retries" metric:"fairlead.pool.retry,counter"`                      // attempts after one that changed nothing
	Saturated     uint64 `json:"saturated" metric:"fairlead.pool.saturated,counter"`                // refused with ErrSaturated
	Failovers     uint64 `json:"failovers" metric:"fairlead.pool.failover,counter"`                 // changes of the primary, or restarts of it
	Unknown       uint64 `json:"outcome_unknown" metric:"fairlead.pool.outcome.unknown,counter"`    // ErrOutcomeUnknown
	CausalityLost uint64 `json:"causality_lost" metric:"fairlead.pool.causality.lost,counter"`      // CausalityLostError
	NoPrimary     bool   `json:"no_primary" metric:"fairlead.pool.primary.missing,max"`             // now
	Nodes         []Node `json:"nodes"`
}

// Stats returns a snapshot.
func (p *Pool) Stats() Stats {
	c := &p.counts
	s := Stats{
		ReadsReplica: c.readsReplica.Load(), ReadsPrimary: c.readsPrimary.Load(), ReadsSpilled: c.readsSpilled.Load(),
		ReadsWaited: c.readsWaited.Load(), ReadsStale: c.readsStale.Load(), Guards: c.guards.Load(),
		StaleAvoided: c.staleAvoided.Load(), Captures: c.captures.Load(), Nudges: c.nudges.Load(), Retries: c.retries.Load(),
		Saturated: c.saturated.Load(), Failovers: c.failovers.Load(), Unknown: c.unknown.Load(),
		CausalityLost: c.causalityLost.Load(), NoPrimary: p.leader.Load() == nil, Nodes: p.nodeStats(),
	}
	p.mu.Lock()
	s.Epoch = p.topo.number
	p.mu.Unlock()
	return s
}

// Node is what the pool knows about one server.
type Node struct {
	Name     string        `json:"name"`  // host:port
	Role     string        `json:"role"`  // primary, replica or unknown
	State    string        `json:"state"` // up, down; fenced (another is the primary), ejected (reads fail there; others are used)
	Epoch    uint64        `json:"epoch"` // that it leads; 0 if it does not
	Timeline uint32        `json:"timeline"`
	Position string        `json:"position"` // written (primary) or replayed (replica), as PostgreSQL writes it
	Lag      time.Duration `json:"lag"`      // everything committed this long ago has been replayed; -1 if that is not known
	Latency  time.Duration `json:"latency"`  // of reads and probes lately
	MaxConns int           `json:"max_conns"`
	InUse    int64         `json:"in_use"`  // connections
	Longest  time.Duration `json:"longest"` // how long a connection has been in use that is
	Waiting  int64         `json:"waiting"` // callers
	Reads    uint64        `json:"reads"`   // of views, answered
	Dials    uint64        `json:"dials"`   // connections opened or tried, probes and cancel requests included
	Held     uint64        `json:"held"`    // dials that had to wait, so as not to storm the server
	Several  bool          `json:"several"` // the address hides several servers that take turns, or a pooler is there
}

func (p *Pool) nodeStats() []Node {
	now := time.Now()
	leader := p.leader.Load()
	var out []Node
	for _, n := range p.nodes {
		n.mu.Lock()
		dials := n.gate.Stats()
		s := Node{Name: n.name, Role: "unknown", State: "down", Lag: -1, InUse: n.inUse.Load(), Waiting: n.waiting.Load(),
			Reads: n.reads.Load(), MaxConns: int(n.config.MaxConns), Dials: dials.Dials, Held: dials.Held, Several: n.several}
		if n.reader != nil {
			s.Longest, _ = n.reader.queue.longest()
		}
		if n.seen.at != (time.Time{}) {
			s.Timeline, s.Position, s.Latency = n.seen.pos.Timeline, lsn.FormatPG(n.seen.pos.LSN), n.health.latency()
			s.Role = "replica"
			if n.seen.primary {
				s.Role = "primary"
			}
		}
		if n.up {
			s.State = "up"
			if n.seen.primary && (leader == nil || leader.id != n.seen.id) {
				s.State = "fenced"
			}
			if !n.fresh.IsZero() {
				s.Lag = max(0, now.Sub(n.fresh))
			}
			if leader != nil && leader.node == n {
				s.Lag, s.Epoch = 0, leader.number
				s.Longest, _ = leader.pool.queue.longest()
			}
			if s.State == "up" && !n.seen.primary && n.health.isOut(now) {
				s.State = "ejected"
			}
		}
		n.mu.Unlock()
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// nodeNumbers are those of Node that make sense as metrics.
type nodeNumbers struct {
	Up      bool          `metric:"fairlead.pool.node.up,gauge"`
	Epoch   uint64        `metric:"fairlead.pool.node.epoch,max"`
	Latency time.Duration `metric:"fairlead.pool.node.latency,max"`
	Max     int           `metric:"db.client.connection.max,gauge"`
	Longest time.Duration `metric:"fairlead.pool.node.longest,max"`
	Dials   uint64        `metric:"fairlead.pool.node.dial,counter"`
	Held    uint64        `metric:"fairlead.pool.node.dial.held,counter"`
	Lag     time.Duration `metric:"fairlead.pool.replica.lag,max"`
	InUse   int64         `metric:"db.client.connection.count,gauge,db.client.connection.state=used"`
	Waiting int64         `metric:"db.client.connection.pending_requests,gauge"`
	Reads   uint64        `metric:"fairlead.pool.node.reads,counter"`
}

func (n Node) numbers() nodeNumbers {
	return nodeNumbers{Up: n.State == "up", Epoch: n.Epoch, Latency: n.Latency, Max: n.MaxConns, Longest: n.Longest, Dials: n.Dials,
		Held: n.Held, Lag: max(0, n.Lag), InUse: n.InUse, Waiting: n.Waiting, Reads: n.Reads}
}

func (p *Pool) noPrimary() error {
	return fmt.Errorf("%w: %s: %s", ErrNoPrimary, p.opt.name, p.states())
}

// states says in words what every server is, for errors.
func (p *Pool) states() string {
	var out []string
	for _, n := range p.nodes {
		n.mu.Lock()
		switch {
		case n.up && n.seen.primary:
			out = append(out, fmt.Sprintf("%s is a primary on timeline %d", n.name, n.seen.pos.Timeline))
		case n.up:
			out = append(out, n.name+" is a replica")
		case n.reason != nil:
			out = append(out, n.name+" is down: "+n.reason.Error())
		default:
			out = append(out, n.name+" has not answered yet")
		}
		n.mu.Unlock()
	}
	return strings.Join(out, "; ")
}
