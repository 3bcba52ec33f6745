package pool

import (
	"context"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

const lookSQL = `select (current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int)::text,
	pg_has_role(current_user, 'pg_monitor', 'usage')::text,
	coalesce((select rolreplication or rolsuper from pg_roles where rolname = current_user), false)::text, quote_ident(current_user)`

// look warns, once a server, of what will not do: too few connections, a role that may not see what a failover asks for.
func (n *node) look(ctx context.Context, conn *pgconn.PgConn) {
	n.mu.Lock()
	done := n.looked
	n.looked = true
	n.mu.Unlock()
	if done {
		return
	}
	p := n.db
	row, err := oneRow(ctx, conn, lookSQL)
	if err != nil {
		p.opt.log.Debug("limits and rights not known", "node", n.name, "error", err)
		return
	}
	// During a failover or a reset there are two generations of connections, and each has one for probes and one for positions.
	need := 2 * p.opt.workers * (int(n.config.MaxConns) + 2)
	if most, err := strconv.Atoi(row[0]); err == nil && need > most {
		p.opt.log.Warn("max_connections is too low for two generations of connections. Remedy: lower Options.MaxConns, or raise it",
			"node", n.name, "needed", need, "available", most)
	}
	if len(p.nodes) > 1 && p.warned.CompareAndSwap(false, true) {
		if row[1] != "true" {
			p.opt.log.Warn("the role may not see which timeline a replica receives: after a failover replicas serve scoped reads "+
				"late. Remedy: GRANT pg_monitor TO "+row[3], "node", n.name)
		}
		if row[2] != "true" {
			p.opt.log.Warn("the role may not read timeline histories: after a failover what was written just before may not be "+
				"provable. Remedy: ALTER ROLE "+row[3]+" REPLICATION", "node", n.name)
		}
	}
}
