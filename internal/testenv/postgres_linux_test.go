package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func startPostgres(t *testing.T, options PostgresOptions) *Postgres {
	t.Helper()
	pg, err := StartPostgres(t.Context(), options)
	must(t, err)
	t.Cleanup(func() { must(t, pg.Close()) })
	return pg
}

// tables makes a database with an empty table and returns ways to write to it and
// to read what a node has, as "1,2,3".
func tables(t *testing.T, pg *Postgres) (write func(n *Node, i int), read func(n *Node) string) {
	t.Helper()
	db, err := pg.CreateDatabase(t.Context())
	must(t, err)
	on := func(n *Node, f func(*pgx.Conn) error) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), n.URL(db))
		must(t, err)
		defer conn.Close(context.Background())
		must(t, f(conn))
	}
	on(pg.Leader(), func(c *pgx.Conn) error {
		_, err := c.Exec(t.Context(), "create table numbers (i int)")
		return err
	})
	write = func(n *Node, i int) {
		t.Helper()
		on(n, func(c *pgx.Conn) error {
			_, err := c.Exec(t.Context(), "insert into numbers values ($1)", i)
			return err
		})
	}
	read = func(n *Node) (all string) {
		t.Helper()
		on(n, func(c *pgx.Conn) error {
			return c.QueryRow(t.Context(), "select coalesce(string_agg(i::text, ',' order by i), '') from numbers").Scan(&all)
		})
		return all
	}
	return write, read
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s has %q, want %q", what, got, want)
	}
}

func refused(t *testing.T, n *Node) {
	t.Helper()
	if conn, err := net.Dial("tcp", n.Addr()); err == nil {
		conn.Close()
		t.Errorf("%s accepts connections", n.Name())
	}
	if pids := processesIn(n.dir, 0); len(pids) > 0 {
		t.Errorf("%s has processes %v", n.Name(), pids)
	}
}

func TestReplication(t *testing.T) {
	pg, err := sharedPostgres.Get()
	must(t, err)
	write, read := tables(t, pg)
	write(pg.Primary, 1)
	for _, n := range pg.nodes() {
		must(t, n.WaitReplayed(t.Context()))
		expect(t, n.Name(), read(n), "1")
		replica, err := get[bool](t.Context(), n, "select pg_is_in_recovery()")
		must(t, err)
		if want := n != pg.Primary; replica != want {
			t.Errorf("%s in recovery: %v", n.Name(), replica)
		}
	}
}

// WaitReplayed waits for all that is committed, flushed or not, and its target is
// one that replicas reach, whatever transactions are open.
func TestWaitReplayed(t *testing.T) {
	pg, err := sharedPostgres.Get()
	must(t, err)
	ctx := t.Context()
	db, err := pg.CreateDatabase(ctx)
	must(t, err)
	connect := func(n *Node) *pgx.Conn {
		t.Helper()
		conn, err := pgx.Connect(ctx, n.URL(db))
		must(t, err)
		t.Cleanup(func() { conn.Close(context.Background()) })
		return conn
	}
	writer, open := connect(pg.Primary), connect(pg.Primary)
	readers := []*pgx.Conn{connect(pg.Replicas[0]), connect(pg.Replicas[1])}
	_, err = writer.Exec(ctx, "create table numbers (i int); set synchronous_commit = off", pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	_, err = open.Exec(ctx, "begin; create table unfinished (i int)", pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	for i := range 20 {
		_, err = open.Exec(ctx, "insert into unfinished values (1)")
		must(t, err)
		_, err := writer.Exec(ctx, "insert into numbers values ($1)", i)
		must(t, err)
		for j, n := range pg.Replicas {
			must(t, n.WaitReplayed(ctx))
			var got int
			must(t, readers[j].QueryRow(ctx, "select count(*) from numbers").Scan(&got))
			if got != i+1 {
				t.Fatalf("%s has %d rows, want %d", n.Name(), got, i+1)
			}
		}
	}
}

func TestCreateDatabase(t *testing.T) {
	var calls atomic.Int64
	pg := startPostgres(t, PostgresOptions{Replicas: 1, Template: func(ctx context.Context, url string) error {
		if calls.Add(1) == 1 {
			return errors.New("not yet")
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "create table product (name text); insert into product values ('chair')")
		return err
	}})
	if _, err := pg.CreateDatabase(t.Context()); err == nil || !strings.Contains(err.Error(), "not yet") {
		t.Errorf("CreateDatabase: %v, want what Template said", err)
	}
	names := make(chan string, 4)
	var wg sync.WaitGroup
	for range cap(names) {
		wg.Go(func() {
			db, err := pg.CreateDatabase(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			names <- db
			for _, n := range pg.nodes() { // there at once, on every node
				conn, err := pgx.Connect(t.Context(), n.URL(db))
				if err != nil {
					t.Error(err)
					continue
				}
				var product string
				if err := conn.QueryRow(t.Context(), "select name from product").Scan(&product); err != nil || product != "chair" {
					t.Errorf("%s has product %q, %v", n.Name(), product, err)
				}
				conn.Close(context.Background())
			}
		})
	}
	wg.Wait()
	close(names)
	seen := map[string]bool{}
	for name := range names {
		seen[name] = true
		must(t, pg.DropDatabase(t.Context(), name))
	}
	if len(seen) != 4 || calls.Load() != 2 {
		t.Errorf("databases %v and %d calls of Template, want 4 and 2", seen, calls.Load())
	}
}

func TestPauseReplay(t *testing.T) {
	ctx := t.Context()
	pg, err := sharedPostgres.Get()
	must(t, err)
	write, read := tables(t, pg)
	a, b := pg.Replicas[0], pg.Replicas[1]
	write(pg.Primary, 1)
	must(t, a.WaitReplayed(ctx))
	must(t, a.PauseReplay(ctx))
	write(pg.Primary, 2)
	must(t, b.WaitReplayed(ctx))
	expect(t, "replica2", read(b), "1,2")
	db, err := pg.CreateDatabase(ctx) // does not wait for the paused one
	must(t, err)
	expect(t, "the paused replica", read(a), "1")
	brief, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := a.WaitReplayed(brief); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("WaitReplayed while paused: %v", err)
	}
	there, err := get[bool](ctx, a, "select exists (select from pg_database where datname = $1)", db)
	must(t, err)
	if there {
		t.Error("the paused replica has a new database")
	}
	must(t, a.ResumeReplay(ctx))
	must(t, a.WaitReplayed(ctx))
	expect(t, "the resumed replica", read(a), "1,2")
	if err := pg.Primary.PauseReplay(ctx); err == nil {
		t.Error("a primary paused")
	}
}

func TestApplyDelay(t *testing.T) {
	ctx := t.Context()
	pg := startPostgres(t, PostgresOptions{Replicas: 1})
	write, read := tables(t, pg)
	r := pg.Replicas[0]
	must(t, r.WaitReplayed(ctx))
	must(t, r.SetApplyDelay(ctx, time.Hour))
	write(pg.Primary, 1)
	position, err := pg.Primary.position(ctx)
	must(t, err)
	eventually(t, func() string {
		received, err := get[bool](ctx, r, "select pg_last_wal_receive_lsn() >= $1::text::pg_lsn", position)
		must(t, err)
		if !received {
			return "received " + position
		}
		return ""
	})
	expect(t, "the delayed replica", read(r), "")
	must(t, r.Restart(ctx)) // keeps the delay
	delay, err := get[string](ctx, r, "show recovery_min_apply_delay")
	must(t, err)
	expect(t, "recovery_min_apply_delay", delay, "1h")
	must(t, r.SetApplyDelay(ctx, 0))
	must(t, r.WaitReplayed(ctx))
	expect(t, "the replica", read(r), "1")
}

func TestKillAndStart(t *testing.T) {
	ctx := t.Context()
	pg := startPostgres(t, PostgresOptions{Replicas: 1})
	write, read := tables(t, pg)
	replica := pg.Replicas[0]
	for i, n := range []*Node{replica, pg.Primary} {
		must(t, replica.WaitReplayed(ctx))
		busy, err := pgx.Connect(ctx, n.URL("postgres"))
		must(t, err)
		result := make(chan error)
		go func() {
			_, err := busy.Exec(context.Background(), "select count(*) from generate_series(1, 1000000000)")
			result <- err
		}()
		must(t, n.Kill())
		if err := <-result; err == nil {
			t.Error("a query survived Kill")
		}
		busy.Close(ctx)
		refused(t, n)
		must(t, n.Kill())
		if err := n.Freeze(); err == nil {
			t.Error("a killed node froze")
		}
		if n == replica {
			write(pg.Primary, i) // meanwhile
		}
		must(t, n.Start(ctx))
		if err := n.Start(ctx); err == nil {
			t.Error("a running node was started again")
		}
	}
	write(pg.Primary, 1)
	must(t, replica.WaitReplayed(ctx))
	expect(t, "replica", read(replica), "0,1")
	expect(t, "primary", read(pg.Primary), "0,1")
}

func TestFreezeAndThaw(t *testing.T) {
	ctx := t.Context()
	pg := startPostgres(t, PostgresOptions{Replicas: 1})
	write, read := tables(t, pg)
	conn, err := pgx.Connect(ctx, pg.Primary.URL("postgres"))
	must(t, err)
	defer conn.Close(context.Background())
	must(t, pg.Primary.Freeze())
	pids := processesIn(pg.Primary.dir, 0)
	if len(pids) < 3 {
		t.Errorf("%d processes, want at least postmaster, checkpointer and backend", len(pids))
	}
	for _, pid := range pids {
		if !stopped(pid) {
			t.Errorf("process %d runs", pid)
		}
	}
	open, err := net.Dial("tcp", pg.Primary.Addr())
	must(t, err) // the kernel accepts
	open.Close()
	brief, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if c, err := pgx.Connect(brief, pg.Primary.URL("postgres")); err == nil {
		c.Close(ctx)
		t.Error("a frozen node answered")
	}
	if err := pg.Primary.Stop(ctx); err == nil {
		t.Error("a frozen node stopped")
	}
	result := make(chan error)
	go func() {
		_, err := conn.Exec(context.Background(), "select 1")
		result <- err
	}()
	must(t, pg.Primary.Thaw())
	must(t, <-result)
	write(pg.Primary, 1)
	must(t, pg.Replicas[0].WaitReplayed(ctx))
	expect(t, "replica", read(pg.Replicas[0]), "1")

	must(t, pg.Replicas[0].Freeze())
	_, err = pg.CreateDatabase(ctx) // does not wait for the frozen one
	must(t, err)
	must(t, pg.Replicas[0].Kill())
	refused(t, pg.Replicas[0])
	must(t, pg.Replicas[0].Start(ctx))
	must(t, pg.Replicas[0].WaitReplayed(ctx))
}

// startTime tells whether a node is still the same process.
func startTime(t *testing.T, n *Node) string {
	t.Helper()
	s, err := get[string](t.Context(), n, "select pg_postmaster_start_time()::text")
	must(t, err)
	return s
}

func TestFailover(t *testing.T) {
	ctx := t.Context()
	pg := startPostgres(t, PostgresOptions{Replicas: 2})
	write, read := tables(t, pg)
	a, b := pg.Replicas[0], pg.Replicas[1]
	write(pg.Primary, 1)
	must(t, a.WaitReplayed(ctx))
	must(t, b.WaitReplayed(ctx))
	must(t, pg.Primary.Kill())
	must(t, a.Promote(ctx))
	if pg.Leader() != a {
		t.Error("the promoted node is not the leader")
	}
	write(a, 2)
	before := startTime(t, b)
	must(t, b.Follow(ctx, a))
	if startTime(t, b) != before {
		t.Error("a replica that was not ahead was made anew")
	}
	must(t, b.WaitReplayed(ctx))
	expect(t, "the other replica", read(b), "1,2")

	must(t, pg.Primary.Follow(ctx, a)) // the old primary comes back
	must(t, pg.Primary.WaitReplayed(ctx))
	expect(t, "the old primary", read(pg.Primary), "1,2")
	if err := a.Follow(ctx, b); err == nil {
		t.Error("nodes follow each other in a circle")
	}
	must(t, b.Follow(ctx, pg.Primary)) // a cascade
	_, err := pg.CreateDatabase(ctx)
	must(t, err)

	must(t, a.Restart(ctx)) // still a primary
	write(a, 3)
	for _, n := range []*Node{pg.Primary, b} {
		must(t, n.WaitReplayed(ctx))
		expect(t, n.Name(), read(n), "1,2,3")
	}
}

func TestSplitBrain(t *testing.T) {
	ctx := t.Context()
	pg := startPostgres(t, PostgresOptions{Replicas: 2})
	write, read := tables(t, pg)
	a, b := pg.Replicas[0], pg.Replicas[1]
	must(t, a.WaitReplayed(ctx))
	must(t, a.Promote(ctx))
	write(pg.Primary, 1) // lives on
	write(a, 2)
	must(t, b.WaitReplayed(ctx))
	expect(t, "the old primary's replica", read(b), "1")
	before := startTime(t, b)
	must(t, b.Follow(ctx, a)) // it has what a lacks
	if startTime(t, b) == before {
		t.Error("a replica that was ahead was kept")
	}
	must(t, b.WaitReplayed(ctx))
	expect(t, "the replica", read(b), "2")
	expect(t, "the old primary", read(pg.Primary), "1")
}

func TestQueryCount(t *testing.T) {
	ctx := t.Context()
	pg, err := sharedPostgres.Get()
	must(t, err)
	db, err := pg.CreateDatabase(ctx)
	must(t, err)
	other, err := pg.CreateDatabase(ctx)
	must(t, err)
	count := func(n *Node, db string, want int64) {
		t.Helper()
		got, err := n.QueryCount(ctx, db, "select %counted%")
		must(t, err)
		if got != want {
			t.Errorf("%s counted %d, want %d", n.Name(), got, want)
		}
	}
	for i, n := range pg.nodes() {
		for _, db := range []string{db, other} {
			conn, err := pgx.Connect(ctx, n.URL(db))
			must(t, err)
			for j := range i + 1 {
				_, err := conn.Exec(ctx, fmt.Sprintf("select 'counted %d'::text, $1::int as counted", j), j)
				must(t, err)
			}
			_, err = conn.Exec(ctx, "select 1")
			must(t, err)
			must(t, conn.Close(ctx))
		}
	}
	for i, n := range pg.nodes() {
		count(n, db, int64(i+1))
		count(n, "", 2*int64(i+1))
	}
	must(t, pg.Replicas[0].ResetCounts(ctx, db))
	count(pg.Replicas[0], db, 0)
	count(pg.Replicas[0], other, 2)
	count(pg.Primary, db, 1)
}

func TestPostgresOptions(t *testing.T) {
	pg := startPostgres(t, PostgresOptions{Settings: map[string]string{"max_connections": "17", "log_line_prefix": `it's "%p" `}})
	for name, want := range map[string]string{"max_connections": "17", "log_line_prefix": `it's "%p" `, "fsync": "off"} {
		got, err := get[string](t.Context(), pg.Primary, "select setting from pg_settings where name = $1", name)
		must(t, err)
		expect(t, name, got, want)
	}
	_, err := StartPostgres(t.Context(), PostgresOptions{Replicas: 1, Settings: map[string]string{"max_connections": "many"}})
	if err == nil || !strings.Contains(err.Error(), "max_connections") {
		t.Errorf("a bad setting: %v, want what PostgreSQL says about it", err)
	}
	if _, err := StartPostgres(t.Context(), PostgresOptions{Replicas: -1}); err == nil {
		t.Error("-1 replicas started")
	}
}

func TestPostgresAfterClose(t *testing.T) {
	pg := startPostgres(t, PostgresOptions{})
	must(t, pg.Close())
	ctx := t.Context()
	_, create := pg.CreateDatabase(ctx)
	_, count := pg.Primary.QueryCount(ctx, "", "%")
	for what, err := range map[string]error{
		"CreateDatabase": create, "DropDatabase": pg.DropDatabase(ctx, "x"), "Start": pg.Primary.Start(ctx), "Restart": pg.Primary.Restart(ctx),
		"Freeze": pg.Primary.Freeze(), "Thaw": pg.Primary.Thaw(), "Promote": pg.Primary.Promote(ctx), "PauseReplay": pg.Primary.PauseReplay(ctx),
		"SetApplyDelay": pg.Primary.SetApplyDelay(ctx, 0), "QueryCount": count, "ResetCounts": pg.Primary.ResetCounts(ctx, ""),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
}
