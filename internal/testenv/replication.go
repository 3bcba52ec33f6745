package testenv

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// PauseReplay stops a replica from replaying what it receives and returns when
// replay has stopped. The replica answers queries with its state of that moment. A
// restart ends the pause, as does Promote.
func (n *Node) PauseReplay(ctx context.Context) error {
	if err := n.exec(ctx, "select pg_wal_replay_pause()"); err != nil {
		return err
	}
	return n.untilTrue(ctx, "pause replay", "select pg_get_wal_replay_pause_state() = 'paused'")
}

// ResumeReplay ends PauseReplay. It does not wait for the replica to catch up.
func (n *Node) ResumeReplay(ctx context.Context) error {
	return n.exec(ctx, "select pg_wal_replay_resume()")
}

// SetApplyDelay makes a replica replay every commit d after it happened
// (recovery_min_apply_delay, in whole milliseconds); 0 ends that. Only commits are
// delayed, and by the clock: for a lag under control use PauseReplay. The delay
// outlives a restart.
func (n *Node) SetApplyDelay(ctx context.Context, d time.Duration) error {
	value := strconv.FormatInt(d.Milliseconds(), 10)
	n.stateMu.Lock()
	n.settings["recovery_min_apply_delay"] = value
	n.stateMu.Unlock()
	return n.reload(ctx, "recovery_min_apply_delay", value)
}

// reload makes a running node read its settings, and waits until one of them has a
// value.
func (n *Node) reload(ctx context.Context, setting, value string) error {
	if n.isShut() {
		return ErrClosed
	}
	n.stateMu.Lock()
	err := n.writeSettings()
	n.stateMu.Unlock()
	if err != nil {
		return fmt.Errorf("testenv: %s: %w", n.name, err)
	}
	if err := n.signal(syscall.SIGHUP); err != nil {
		return err
	}
	return n.untilTrue(ctx, "set "+setting, "select setting = $2 from pg_settings where name = $1", setting, value)
}

// Promote makes a replica a primary on a new timeline and returns when it accepts
// writes. It does nothing to the node that it followed, which may go on as a
// primary of its own.
func (n *Node) Promote(ctx context.Context) error {
	if err := n.exec(ctx, "select pg_promote(wait => false)"); err != nil {
		return err
	}
	if err := n.untilTrue(ctx, "promote", "select not pg_is_in_recovery()"); err != nil {
		return err
	}
	n.stateMu.Lock()
	n.left, n.upstream = n.upstream, nil // Start makes a primary of it
	n.stateMu.Unlock()
	n.pg.mu.Lock()
	n.pg.leader = n
	n.pg.mu.Unlock()
	return nil
}

// Follow makes the node a replica of source, whatever it was before, and returns
// when it streams from there. A running replica that has nothing that source lacks
// is only told the new address. Any other node (a former primary, a node that was
// killed, a replica that got ahead) is killed and made anew from a base backup.
func (n *Node) Follow(ctx context.Context, source *Node) error {
	if n == source || source.follows(n) {
		return fmt.Errorf("testenv: %s cannot follow %s", n.name, source.name)
	}
	keep, err := n.canTurnTo(ctx, source)
	if err != nil {
		return err
	}
	n.stateMu.Lock()
	n.upstream, n.left, n.detached = source, nil, false
	conninfo := n.conninfo()
	n.stateMu.Unlock()
	if keep {
		err = n.reload(ctx, "primary_conninfo", conninfo)
	} else {
		err = n.cloneFrom(ctx, source)
	}
	if err != nil {
		return err
	}
	return n.streams(ctx, source)
}

// canTurnTo reports whether all that the node has is in source's history. If so,
// the node does not receive anything any more from the node that it followed.
func (n *Node) canTurnTo(ctx context.Context, source *Node) (bool, error) {
	n.stateMu.Lock()
	upstream := n.upstream
	n.stateMu.Unlock()
	source.stateMu.Lock()
	left := source.left
	source.stateMu.Unlock()
	promoted := left != nil && left == upstream // the ordinary failover
	if upstream == nil || !n.answers() || !promoted && source != upstream && !source.follows(upstream) {
		return false, nil
	}
	n.stateMu.Lock()
	n.detached = true
	n.stateMu.Unlock()
	if err := n.reload(ctx, "primary_conninfo", ""); err != nil {
		return false, err
	}
	err := n.untilTrue(ctx, "stop streaming", "select not exists (select from pg_stat_wal_receiver)")
	if err != nil || !promoted {
		return err == nil, err
	}
	// The last line of a timeline's history says where it left the one before.
	history, err := get[string](ctx, source, `select pg_read_file('pg_wal/' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || '.history')`)
	if err != nil {
		return false, err
	}
	lines := strings.Split(strings.TrimSpace(history), "\n")
	fields := strings.Fields(lines[len(lines)-1])
	if len(fields) < 2 {
		return false, fmt.Errorf("testenv: %s: history %q", source.name, history)
	}
	return get[bool](ctx, n, "select greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) <= $1::text::pg_lsn", fields[1])
}

// cloneFrom replaces the node's files by a base backup of source and starts it.
func (n *Node) cloneFrom(ctx context.Context, source *Node) error {
	if err := n.Kill(); err != nil {
		return err
	}
	removeSharedMemory(filepath.Join(n.dir, "postmaster.pid"))
	files, err := os.ReadDir(n.dir)
	if err != nil {
		return fmt.Errorf("testenv: %s: %w", n.name, err)
	}
	for _, f := range files {
		if err := os.RemoveAll(filepath.Join(n.dir, f.Name())); err != nil {
			return fmt.Errorf("testenv: %s: %w", n.name, err)
		}
	}
	host, port, _ := net.SplitHostPort(source.addr)
	err = command{
		path: n.pg.binaries.path("pg_basebackup"),
		args: []string{n.pg.binaries.path("pg_basebackup"), "-D", n.dir, "-h", host, "-p", port, "-U", "postgres", "-w", "--checkpoint=fast", "--no-sync"},
		dir:  n.dir,
	}.run(ctx)
	if err != nil {
		return fmt.Errorf("testenv: %s: %w", n.name, err)
	}
	return n.Start(ctx)
}

// follows reports whether the node gets its changes from other, directly or not.
func (n *Node) follows(other *Node) bool {
	for {
		n.stateMu.Lock()
		upstream := n.upstream
		n.stateMu.Unlock()
		if upstream == nil {
			return false
		}
		if upstream == other {
			return true
		}
		n = upstream
	}
}

// streams waits until the node receives from source.
func (n *Node) streams(ctx context.Context, source *Node) error {
	return source.untilTrue(ctx, "stream to "+n.name, `select exists (
		select from pg_stat_replication where application_name = $1 and state = 'streaming')`, n.name)
}

// WaitReplayed waits until a replica has replayed everything that was committed on
// the node it follows, in the end the primary, when WaitReplayed was called. To
// have a position that a replica can reach it may write a record of a few bytes to
// the primary's log.
func (n *Node) WaitReplayed(ctx context.Context) error {
	source := n
	for {
		source.stateMu.Lock()
		upstream := source.upstream
		source.stateMu.Unlock()
		if upstream == nil {
			break
		}
		source = upstream
	}
	if source == n {
		return nil
	}
	position, err := source.position(ctx)
	if err != nil {
		return err
	}
	return n.untilTrue(ctx, "replay "+position, "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", position)
}

// position returns a position of a primary that is on its disk and behind
// everything that is committed.
func (n *Node) position(ctx context.Context) (position string, err error) {
	err = n.with(ctx, func(conn *pgx.Conn) error {
		var flushed bool
		err := conn.QueryRow(ctx, "select pg_current_wal_flush_lsn()::text, pg_current_wal_flush_lsn() = pg_current_wal_insert_lsn()").Scan(&position, &flushed)
		if err != nil || flushed {
			return err
		}
		// Asynchronous commits and open transactions are not flushed yet. A commit
		// flushes all that is before it, if it need not wait for replicas.
		if _, err := conn.Exec(ctx, "set synchronous_commit = local"); err != nil {
			return err
		}
		return conn.QueryRow(ctx, "select pg_logical_emit_message(true, 'testenv', '')::text").Scan(&position)
	})
	return position, err
}

// has waits until a database is on a replica, unless replay is paused.
func (n *Node) has(ctx context.Context, database string) error {
	return n.untilTrue(ctx, "replay the creation of "+database, `select pg_get_wal_replay_pause_state() <> 'not paused'
		or exists (select from pg_database where datname = $1)`, database)
}
