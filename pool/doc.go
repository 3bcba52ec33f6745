// Package pool is a PostgreSQL connection pool on pgx that knows a primary from its replicas, reads from replicas without
// reading stale, and follows a failover without a restart.
//
//	db, err := pool.New(ctx, "postgres://db1,db2,db3/shop", pool.Options{MaxConns: 8})
//	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error { … })  // the primary, whichever it is
//	row := db.ReadOnly().QueryRow(ctx, "select …")              // a replica that is fresh enough
//
// # What it guarantees
//
// [Pool] has the methods of pgxpool.Pool that applications use, with their meaning. Plain methods run on the primary.
// [Pool.ReadOnly] is asked for: a [View] with the same methods. The server refuses what writes tables there; what it would
// let pass all the same (advisory locks, NOTIFY, large objects) is refused by what it is called, so an application's own
// function that does such a thing is not. The Conn of a view's transaction is the connection itself: what is done there by
// batch, by COPY or below pgx is not looked at.
//
// A context may carry a scope (package causal; the session package and causal.Middleware open one a request). A read under a
// scope sees every write that the scope knows of, made in whichever process, and never less than an earlier read of the
// scope saw, while replicas serve it whenever one is far enough. Positions are taken after the commit, from the primary's
// insert position; a replica serves if it has shown that it replayed that much, shows it in the same round trip before the
// read's snapshot, or does within ReadOptions.WaitUpTo; otherwise the primary serves. Without a scope no position is taken
// or compared, and a read is at most ReadOptions.MaxStaleness old; after a failover that may be on a replica which is still
// on the older timeline. Every read of a view goes with a short statement before it that makes it read-only and confirms the
// server's role; under a scope one after it tells the position that it saw. Both share the read's round trip, but for
// transactions and for queries with options of pgx before their arguments.
//
// # Failover
//
// All servers are probed on connections of their own. The primary is the one that is not in recovery, on the highest timeline
// seen, of the system that was seen first; two such are none. A new primary, or a restarted one, is a new epoch with new
// connections; once a process has seen a newer timeline it starts nothing on an older one, but for views' reads without a
// scope, as said above. What it cannot see it cannot know: only the fencing of a high-availability tool closes split brain. A
// server that is frozen is given up after a second.
//
// Calls wait for a primary for Options.FailoverTimeout, then fail with [ErrNoPrimary]. A statement of which nothing was sent
// is tried again by itself; one that was sent and not answered is [ErrOutcomeUnknown] and never sent again, unless it is a
// view's read. [Pool.RunTx] repeats transactions that were rolled back. A position that may not have survived a failover is
// [CausalityLostError], once.
//
// # What it does not
//
// Reads of what another client wrote, of which the scope knows nothing, are bounded by MaxStaleness only. After a failover, replicas serve scoped reads again once they
// show the new timeline, which they do at once to a role with pg_monitor and after their next restart point to others; what
// was written just before it is proven to have survived to a role with REPLICATION, or if the promoted server was seen to
// have replayed it.
//
// A replica may follow a new primary before the pool's probes have seen it. A role with pg_monitor sees a replica's timeline
// with each position while the replica receives, so nothing read there is taken for the old timeline's. For other roles, and
// for a replica that is not receiving, positions do not grow while no primary is known; but as long as the old one is still
// taken for the primary, a moment after a promotion, a lost write may be missing from a read without a [CausalityLostError].
//
// # Servers and services
//
// PostgreSQL 13 or later. Any role that can log in will do; one that is not a superuser knows more with
//
//	grant pg_monitor to app;        -- replicas serve scoped reads at once after a failover
//	alter role app replication;     -- and what survived one is known exactly; pg_hba.conf has to let it in as well
//
// The tests run on some of what follows. What is said of the rest is what follows from its documentation: try a failover
// there before relying on it.
//
//   - PostgreSQL 15 with streaming replication: tested, with killed, frozen and demoted primaries. Name every server.
//   - One address for several servers (a Kubernetes service, HAProxy, a reader endpoint): tested, with a TCP proxy that
//     alternates. Each connection speaks for the server that it leads to, so every read there is checked in its round trip.
//   - PgBouncer in transaction mode, one in front of each server: tested, version 1.18. Below 1.21 it knows no prepared
//     statements: default_query_exec_mode=exec in the URL. The exact fork of a timeline cannot be asked for through it.
//   - Patroni: not tested. Name every member; roles are found out. An Options.Leader that asks its REST API makes Patroni's
//     the last word; its own demotion and watchdog are the fencing.
//   - CloudNativePG: not tested. The services -rw as the URL and -ro in Options.Replicas, which is one address for several
//     servers; pg_monitor by the cluster's managed roles. For its Pooler see PgBouncer.
//   - Amazon RDS: not tested. The endpoints of the instance and of each read replica, not one that is shared by all. Multi-AZ
//     keeps the endpoint and moves it, which is a restart seen from here: a new epoch. Its master user can grant pg_monitor;
//     there are no physical replication connections, so after a promotion only what the promoted server was seen to have
//     replayed is known to have survived.
//   - Google Cloud SQL: not tested. The addresses of the instance and of each read replica; high availability keeps the address,
//     as above. A cloudsqlsuperuser can grant pg_monitor. A read pool is one address for several servers.
//   - Amazon Aurora: not tested against the service, and without the tokens' promise: its functions for positions answer with
//     errors (0A000, 55000). Writer and reader endpoint; a scope that wrote reads the writer for Options.StickyFor.
package pool
