package testenv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// Node is one PostgreSQL server. Its methods are safe for concurrent use, but what
// two controls at once leave behind is their caller's affair.
type Node struct {
	*server
	pg   *Postgres
	addr string

	stateMu  sync.Mutex
	settings map[string]string
	upstream *Node // nil for a primary
	detached bool  // a replica that receives nothing
	left     *Node // what a promoted node followed before
}

// newNode makes a node with an empty data directory.
func newNode(p *Postgres, name string) (*Node, error) {
	host, port, err := freePort()
	if err != nil {
		return nil, err
	}
	dir, err := p.home.mkdir(name)
	if err != nil {
		return nil, fmt.Errorf("testenv: %s: %w", name, err)
	}
	settings := map[string]string{
		"listen_addresses":                host,
		"port":                            strconv.Itoa(port),
		"unix_socket_directories":         "",
		"cluster_name":                    name, // also the name of the replica in pg_stat_replication
		"shared_buffers":                  "32MB",
		"max_connections":                 "100",
		"dynamic_shared_memory_type":      "mmap",
		"fsync":                           "off",
		"wal_level":                       "replica",
		"max_wal_size":                    "256MB",
		"wal_keep_size":                   "256MB", // replicas that were down or paused catch up
		"wal_init_zero":                   "off",
		"wal_retrieve_retry_interval":     "100ms",
		"checkpoint_timeout":              "30min",
		"autovacuum":                      "off",
		"max_logical_replication_workers": "0",
		"log_line_prefix":                 "%m [%p] ",
	}
	if p.binaries.statements {
		settings["shared_preload_libraries"] = "pg_stat_statements"
		settings["pg_stat_statements.save"] = "off"
	}
	maps.Copy(settings, p.options.Settings)
	n := &Node{
		server: &server{
			name:    name,
			command: command{path: p.binaries.path("postgres"), args: []string{p.binaries.path("postgres"), "-D", dir}, dir: dir},
			log:     dir + ".log",
		},
		pg: p, addr: net.JoinHostPort(host, strconv.Itoa(port)), settings: settings,
	}
	return n, nil
}

// Name returns primary, replica1, replica2 and so on: what the node started as.
// It is the node's cluster_name and, while it is a replica, its application_name
// on the node that it follows.
func (n *Node) Name() string { return n.name }

// Addr returns the host and port that the node listens on, always the same.
func (n *Node) Addr() string { return n.addr }

// URL returns a connection string for a database on this node.
func (n *Node) URL(database string) string { return PostgresURL(n.addr, database) }

// Start starts a node that was killed or stopped, in the role that it had, and
// returns when it answers queries. It does not wait for replication.
func (n *Node) Start(ctx context.Context) error {
	if n.isShut() {
		return ErrClosed
	}
	if n.alive() { // its files are in use
		return fmt.Errorf("testenv: %s runs already", n.name)
	}
	// The lock file of a killed server holds a process id that someone else may have
	// by now.
	removeSharedMemory(filepath.Join(n.dir, "postmaster.pid"))
	n.stateMu.Lock()
	err := n.writeSettings()
	n.stateMu.Unlock()
	if err != nil {
		return fmt.Errorf("testenv: %s: %w", n.name, err)
	}
	if err := n.server.start(); err != nil {
		return err
	}
	return n.untilTrue(ctx, "start", "select true")
}

// Stop shuts the node down in order ("fast": sessions are ended, a primary's
// replicas get everything first). See Kill for the other way.
func (n *Node) Stop(ctx context.Context) error {
	return n.stop(ctx, syscall.SIGINT)
}

// Restart is Stop and Start.
func (n *Node) Restart(ctx context.Context) error {
	if err := n.Stop(ctx); err != nil {
		return err
	}
	return n.Start(ctx)
}

// remove kills the node and removes its files.
func (n *Node) remove() error {
	n.shut()
	err := n.Kill()
	removeSharedMemory(filepath.Join(n.dir, "postmaster.pid"))
	return errors.Join(err, os.RemoveAll(n.dir), os.RemoveAll(n.log))
}

// writeSettings writes the node's settings and its role. The caller holds stateMu.
func (n *Node) writeSettings() error {
	settings := maps.Clone(n.settings)
	standby := filepath.Join(n.dir, "standby.signal")
	if n.upstream != nil {
		settings["primary_conninfo"] = n.conninfo()
		if err := writeServerFile(standby, ""); err != nil {
			return err
		}
	} else if err := os.Remove(standby); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = %s\n", name, quoteSetting(settings[name]))
	}
	return writeServerFile(filepath.Join(n.dir, settingsFile), b.String())
}

// conninfo says where a replica gets its changes. The caller holds stateMu.
func (n *Node) conninfo() string {
	if n.detached {
		return ""
	}
	host, port, _ := net.SplitHostPort(n.upstream.addr)
	return fmt.Sprintf("host=%s port=%s user=postgres", host, port)
}

// writeServerFile replaces a file as a whole: a server may be reading it.
func writeServerFile(path, content string) error {
	if err := os.WriteFile(path+".new", []byte(content), 0o600); err != nil {
		return err
	}
	if err := chownToServer(path + ".new"); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// with calls f with a connection to the node's own database.
func (n *Node) with(ctx context.Context, f func(*pgx.Conn) error) error {
	if n.isShut() {
		return ErrClosed
	}
	err := func() error {
		conn, err := pgx.Connect(ctx, n.URL("postgres"))
		if err != nil {
			return err
		}
		defer conn.Close(context.WithoutCancel(ctx))
		return f(conn)
	}()
	if err != nil {
		return fmt.Errorf("testenv: %s: %w", n.name, err)
	}
	return nil
}

// exec runs statements one after the other, each in a transaction of its own.
func (n *Node) exec(ctx context.Context, statements ...string) error {
	return n.with(ctx, func(conn *pgx.Conn) error {
		for _, s := range statements {
			if _, err := conn.Exec(ctx, s, pgx.QueryExecModeSimpleProtocol); err != nil {
				return err
			}
		}
		return nil
	})
}

// get returns the value of a query of one row and one column.
func get[T any](ctx context.Context, n *Node, query string, args ...any) (value T, err error) {
	err = n.with(ctx, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, query, args...).Scan(&value) })
	return value, err
}

var errNotYet = errors.New("not yet")

// untilTrue repeats a query until it says true.
func (n *Node) untilTrue(ctx context.Context, what, query string, args ...any) error {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			conn.Close(context.WithoutCancel(ctx))
		}
	}()
	return n.until(ctx, what, func(ctx context.Context) error {
		if n.isShut() {
			return permanent{ErrClosed}
		}
		if conn == nil || conn.IsClosed() {
			c, err := pgx.Connect(ctx, n.URL("postgres"))
			if err != nil {
				return err
			}
			conn = c
		}
		done := false
		err := conn.QueryRow(ctx, query, args...).Scan(&done)
		if err == nil && !done {
			err = errNotYet
		}
		return err
	})
}
