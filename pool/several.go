package pool

import (
	"time"

	"github.com/fairlead/fairlead/pool/internal/lsn"
)

// An address can hide several servers: a Kubernetes service, a reader endpoint, HAProxy. What one connection says of its
// server then proves nothing of the next. Such an address shows itself when a connection leads to another run of a server
// while the one that the probes know goes on, and from then on every read asks its server, in its own round trip, what it is.

// met notes which server a new connection leads to.
func (n *node) met(id identity) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.up && !n.several && id != n.seen.id && id.system == n.seen.id.system {
		n.stranger, n.strangeAt = id, time.Now() // restarted, or another server: the next probe tells
		n.kick()
	}
}

// pooled notes that a connection is to something that stands before the server, such as PgBouncer: the process that serves it
// is not the one that the connection was made to. Behind it the server can be restarted, or replaced, and no connection ends.
func (n *node) pooled() {
	n.mu.Lock()
	first := !n.several
	n.several = true
	n.mu.Unlock()
	if first {
		n.db.opt.log.Info("a pooler stands before the server; each read asks the server that it gets", "node", n.name)
	}
}

// distinguishLocked takes in that a probe sent at o.at found o, and returns whether the address has just shown that it hides
// several servers.
func (n *node) distinguishLocked(o observation, was identity) bool {
	if n.several || n.strangeAt.IsZero() || !o.at.After(n.strangeAt) {
		return false
	}
	n.several = o.id == was && o.id != n.stranger
	n.strangeAt = time.Time{}
	return n.several
}

// manySQL is guardSQL for an address of several servers. The timeline is a lower bound if it cannot be had exactly, as in
// probeSQL.
const manySQL = `select pg_is_in_recovery(), case when pg_is_in_recovery() then pg_last_wal_replay_lsn()::text end,
	greatest((select timeline_id from pg_control_checkpoint()), (select min_recovery_end_timeline from pg_control_recovery()),
		(select received_tli from pg_stat_wal_receiver)),
	current_setting('transaction_isolation') = 'read committed', set_config('transaction_read_only', 'on', true)`

// judgeMany decides by what the server itself said before the read, and by nothing that was known.
func (g *guardRow) judgeMany(r *read, t *target) error {
	p := r.db
	p.counts.guards.Add(1)
	var at lsn.Position
	if g.position != nil && g.timeline != nil && g.committed {
		l, err := lsn.ParsePG(*g.position)
		if err != nil {
			return err
		}
		at = lsn.Position{Timeline: *g.timeline, LSN: l}
	}
	t.shown = at
	fresh := r.opt.MaxStaleness < 0
	if !fresh {
		newest := p.samples.newestAt(at)
		fresh = !newest.IsZero() && p.lastWord().Sub(newest) <= r.opt.MaxStaleness
	}
	if fresh && (r.scope == nil || at.Timeline == t.timeline && at.Reaches(t.bound)) {
		return nil
	}
	p.counts.staleAvoided.Add(1)
	r.short = append(r.short, t.node)
	return errShort
}

// lastWord is now, or if there has been no primary for a while that is not too long, when it was last heard: nothing newer
// can be known of then, and the last proof holds.
func (p *Pool) lastWord() time.Time {
	now := time.Now()
	if p.leader.Load() == nil {
		if seen := time.Unix(0, p.leaderSeen.Load()); now.Sub(seen) <= p.opt.failoverTimeout {
			return seen
		}
	}
	return now
}
