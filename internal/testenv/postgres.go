package testenv

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// PostgresOptions says what to start. The zero value is a primary alone.
type PostgresOptions struct {
	// Replicas is how many streaming replicas follow the primary.
	Replicas int

	// Settings are added to the configuration of every node, over testenv's own:
	// {"max_connections": "20"}.
	Settings map[string]string

	// Template, if not nil, fills the database that CreateDatabase copies. It is
	// called once a server, by the first CreateDatabase, with the URL of an empty
	// database on the primary, and must have closed its connections when it returns.
	Template func(ctx context.Context, url string) error

	// NewSystem gives the nodes a system identifier of their own, which takes a second.
	// Without it all servers of a process begin as copies of one and share it.
	NewSystem bool
}

// Postgres is a PostgreSQL primary with its replicas. Its methods are safe for
// concurrent use.
type Postgres struct {
	// Primary and Replicas are the nodes in the roles that they started with; they
	// stay here whatever role they have later. See Leader.
	Primary  *Node
	Replicas []*Node

	options  PostgresOptions
	binaries postgresBinaries
	home     *home

	template onceErr

	mu        sync.Mutex
	leader    *Node
	databases int
	closed    bool
}

// StartPostgres starts a primary and its replicas and returns when all of them
// answer and every replica streams. The superuser is postgres, without a password.
func StartPostgres(ctx context.Context, options PostgresOptions) (*Postgres, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	if options.Replicas < 0 {
		return nil, fmt.Errorf("testenv: PostgresOptions.Replicas = %d: must be >= 0", options.Replicas)
	}
	bin, err := postgresBin()
	if err != nil {
		return nil, err
	}
	h, err := openHome()
	if err != nil {
		return nil, err
	}
	options.Settings = maps.Clone(options.Settings)
	p := &Postgres{options: options, binaries: bin, home: h}
	if err := p.start(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *Postgres) start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	files := filepath.Join(p.home.dir, templateDir)
	var err error
	if p.options.NewSystem {
		if files, err = p.home.mkdir(templateDir); err == nil {
			err = initdb(ctx, p.binaries, files)
		}
	} else {
		err = p.home.initdb.do(func() error { return initdb(ctx, p.binaries, files) })
	}
	if err != nil {
		return fmt.Errorf("testenv: %w", err)
	}
	for i := range 1 + p.options.Replicas {
		name := "primary"
		if i > 0 {
			name = fmt.Sprintf("replica%d", i)
		}
		n, err := newNode(p, name)
		if err != nil {
			return err
		}
		if i == 0 {
			p.Primary, p.leader = n, n
		} else {
			n.upstream = p.Primary
			p.Replicas = append(p.Replicas, n)
		}
	}
	// A replica starts from the same files as the primary, which are those of a
	// server that was shut down in order, so no base backup is needed and all nodes
	// start at once.
	var group errgroup.Group
	for _, n := range p.nodes() {
		group.Go(func() error {
			if err := copyTree(files, n.dir); err != nil {
				return fmt.Errorf("testenv: %s: %w", n.name, err)
			}
			return n.Start(ctx)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if p.binaries.statements {
		if err := p.Primary.exec(ctx, "create extension pg_stat_statements"); err != nil {
			return err
		}
	}
	for _, n := range p.Replicas {
		if err := n.streams(ctx, p.Primary); err != nil {
			return err
		}
		if err := n.WaitReplayed(ctx); err != nil {
			return err
		}
	}
	return nil
}

// nodes returns the nodes, of a failed start those that were made.
func (p *Postgres) nodes() []*Node {
	if p.Primary == nil {
		return nil
	}
	return append([]*Node{p.Primary}, p.Replicas...)
}

// Leader returns the node that was promoted last, or the primary.
func (p *Postgres) Leader() *Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leader
}

// CreateDatabase creates a database on the leader, a copy of the template if there
// is one, and returns its name when it is on every node that runs and replays.
// Replicas that are killed, frozen or paused get it later.
func (p *Postgres) CreateDatabase(ctx context.Context) (string, error) {
	const template = "fairlead_template"
	p.mu.Lock()
	leader, closed := p.leader, p.closed
	p.databases++
	name := fmt.Sprintf("test%d", p.databases)
	p.mu.Unlock()
	if closed {
		return "", ErrClosed
	}
	from := "template0"
	if p.options.Template != nil {
		from = template
		err := p.template.do(func() error {
			if err := leader.exec(ctx, "drop database if exists "+template, createDatabase(template, "template0")); err != nil {
				return err
			}
			if err := p.options.Template(ctx, leader.URL(template)); err != nil {
				return fmt.Errorf("testenv: PostgresOptions.Template: %w", err)
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	if err := leader.exec(ctx, createDatabase(name, from)); err != nil {
		return "", err
	}
	for _, n := range p.nodes() {
		if n == leader || !n.answers() || !n.follows(leader) {
			continue
		}
		if err := n.has(ctx, name); err != nil {
			return "", err
		}
	}
	return name, nil
}

// createDatabase copies files, which with fsync off takes half as long as logging
// every page, and does not fill the log.
func createDatabase(name, template string) string {
	return fmt.Sprintf("create database %s template %s strategy file_copy", name, template)
}

// DropDatabase drops a database and ends the connections to it.
func (p *Postgres) DropDatabase(ctx context.Context, name string) error {
	return p.Leader().exec(ctx, fmt.Sprintf("drop database %s with (force)", pgx.Identifier{name}.Sanitize()))
}

// Close kills all nodes and removes their files. It may be called more than once.
func (p *Postgres) Close() error {
	p.mu.Lock()
	closed := p.closed
	p.closed = true
	p.mu.Unlock()
	if closed {
		return nil
	}
	nodes := p.nodes()
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { errs[i] = n.remove() })
	}
	wg.Wait()
	return errors.Join(append(errs, p.home.close())...)
}

// PostgresURL returns a connection string for a database at addr, which is a
// node's or that of a proxy in front of it, for the superuser.
func PostgresURL(addr, database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: addr, Path: "/" + database, RawQuery: "sslmode=disable"}
	return u.String()
}

// templateDir is the directory below home that initdb filled; those of systems of
// their own are numbered.
const templateDir = "initdb"

// initdb makes the files that nodes start from.
func initdb(ctx context.Context, bin postgresBinaries, dir string) error {
	if err := os.RemoveAll(dir); err != nil { // of a failed attempt
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := chownToServer(dir); err != nil {
		return err
	}
	err := command{
		path: bin.path("initdb"),
		args: []string{bin.path("initdb"), "-D", dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"},
		dir:  dir,
	}.run(ctx)
	if err != nil {
		return err
	}
	// Local addresses other than 127.0.0.1 are local too.
	hba := "host all all 127.0.0.0/8 trust\nhost replication all 127.0.0.0/8 trust\n"
	if err := os.WriteFile(filepath.Join(dir, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("\ninclude '" + settingsFile + "'\n")
	return errors.Join(err, f.Close())
}

// settingsFile is the file in a data directory that holds a node's settings.
const settingsFile = "testenv.conf"

// quoteSetting quotes a value for a configuration file or a connection string.
func quoteSetting(value string) string {
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}
