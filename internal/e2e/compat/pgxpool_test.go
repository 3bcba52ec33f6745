package compat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/pool"
)

// drop is what applications use of a *pgxpool.Pool.
type drop interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	Query(context.Context, string, ...any) (pgx.Rows, error)
	QueryRow(context.Context, string, ...any) pgx.Row
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
	CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
	Begin(context.Context) (pgx.Tx, error)
	BeginTx(context.Context, pgx.TxOptions) (pgx.Tx, error)
	Acquire(context.Context) (*pgxpool.Conn, error)
	AcquireFunc(context.Context, func(*pgxpool.Conn) error) error
	Stat() *pgxpool.Stat
	Reset()
	Ping(context.Context) error
	Close()
}

// Both pools go through the same scenes, and see the same.
func TestPoolBehavesLikePgxpool(t *testing.T) {
	pg, name := database(t)
	config := func() *pgxpool.Config {
		c, err := pgxpool.ParseConfig(pg.Primary.URL(name))
		if err != nil {
			t.Fatal(err)
		}
		c.MaxConns = 2
		return c
	}
	for scene, play := range map[string]func(*testing.T, drop) []string{
		"a released connection is used again": func(t *testing.T, db drop) (saw []string) {
			pids := make(map[uint32]bool)
			for range 5 {
				c, err := db.Acquire(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				pids[c.Conn().PgConn().PID()] = true
				c.Release()
				c.Release() // does nothing
			}
			return []string{fmt.Sprint(len(pids))}
		},
		"AcquireFunc gives back and passes the error on": func(t *testing.T, db drop) []string {
			err := db.AcquireFunc(t.Context(), func(*pgxpool.Conn) error { return errStop })
			return []string{fmt.Sprint(errors.Is(err, errStop), db.Stat().AcquiredConns())}
		},
		"a connection released in a transaction, failed or not, is not used again": func(t *testing.T, db drop) (saw []string) {
			for _, sql := range []string{"select 1", "select nonsense"} {
				c, err := db.Acquire(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				pid := c.Conn().PgConn().PID()
				if _, err := c.Exec(t.Context(), "begin"); err != nil {
					t.Fatal(err)
				}
				c.Exec(t.Context(), sql)
				c.Release()
				again := false
				eventually(t, "the connection is gone", func() error {
					if n := db.Stat().AcquiredConns(); n != 0 {
						return fmt.Errorf("%d acquired", n)
					}
					return nil
				})
				var all []*pgxpool.Conn
				for range 2 {
					c, err := db.Acquire(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					again = again || c.Conn().PgConn().PID() == pid
					all = append(all, c)
				}
				for _, c := range all {
					c.Release()
				}
				saw = append(saw, fmt.Sprint(again))
			}
			return saw
		},
		"a busy connection that is released is closed": func(t *testing.T, db drop) []string {
			c, err := db.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			pid := c.Conn().PgConn().PID()
			rows, err := c.Query(t.Context(), "select generate_series(1, 100000)")
			if err != nil || !rows.Next() {
				t.Fatal(err)
			}
			c.Release()
			var alive bool
			eventually(t, "its server process ends", func() error {
				if err := db.QueryRow(t.Context(), "select exists (select from pg_stat_activity where pid = $1)", pid).Scan(&alive); err != nil || alive {
					return fmt.Errorf("%v, %v", alive, err)
				}
				return nil
			})
			return []string{fmt.Sprint(db.Stat().AcquiredConns())}
		},
		"a scan that panics gives the connection back": func(t *testing.T, db drop) []string {
			for range 3 {
				func() {
					defer func() { recover() }()
					db.QueryRow(t.Context(), "select 1").Scan(panicky{})
				}()
			}
			var n int
			err := db.QueryRow(t.Context(), "select 2").Scan(&n)
			return []string{fmt.Sprint(n, err, db.Stat().AcquiredConns())}
		},
		"a cancelled query says so, and its connection is replaced if need be": func(t *testing.T, db drop) (saw []string) {
			for range 3 {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				_, err := db.Exec(ctx, "select pg_sleep(60)")
				saw = append(saw, fmt.Sprint(errors.Is(err, context.DeadlineExceeded)))
				cancel()
				var n int
				err = db.QueryRow(t.Context(), "select 3").Scan(&n)
				saw = append(saw, fmt.Sprint(n, err))
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, err := db.Exec(ctx, "select 1")
			saw = append(saw, fmt.Sprint(errors.Is(err, context.Canceled)))
			_, err = db.Acquire(ctx)
			saw = append(saw, fmt.Sprint(errors.Is(err, context.Canceled)))
			return saw
		},
		"rows that are closed early leave the pool whole": func(t *testing.T, db drop) (saw []string) {
			for range 4 {
				rows, err := db.Query(t.Context(), "select generate_series(1, 1000)")
				if err != nil || !rows.Next() {
					t.Fatal(err)
				}
				rows.Close()
				saw = append(saw, fmt.Sprint(rows.Err(), rows.Next(), db.Stat().AcquiredConns()))
			}
			return saw
		},
		"Reset closes idle connections, and busy ones when they come back": func(t *testing.T, db drop) []string {
			busy, err := db.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			old := busy.Conn().PgConn().PID()
			db.Reset()
			var n int
			err = busy.QueryRow(t.Context(), "select 4").Scan(&n) // still works
			busy.Release()
			again := 0
			for range 4 {
				c, err := db.Acquire(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if c.Conn().PgConn().PID() == old {
					again++
				}
				c.Release()
			}
			return []string{fmt.Sprint(n, err, again)}
		},
		"Close waits for busy connections, and may be called again": func(t *testing.T, db drop) []string {
			c, err := db.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			rows, err := c.Query(t.Context(), "select generate_series(1, 3)")
			if err != nil {
				t.Fatal(err)
			}
			closed := make(chan struct{})
			go func() { db.Close(); close(closed) }()
			n := 0
			for rows.Next() { // what runs goes on
				n++
			}
			saw := []string{fmt.Sprint(n, rows.Err())}
			select {
			case <-closed:
				saw = append(saw, "closed with a connection out")
			default:
			}
			c.Release()
			<-closed
			db.Close()
			_, err = db.Exec(t.Context(), "select 1")
			_, err2 := db.Begin(t.Context())
			return append(saw, fmt.Sprint(err != nil, err2 != nil, db.Ping(t.Context()) != nil))
		},
		"batches": func(t *testing.T, db drop) (saw []string) {
			b := &pgx.Batch{}
			b.Queue("select 1")
			b.Queue("select 2")
			b.Queue("select 1/0")
			b.Queue("select 3")
			r := db.SendBatch(t.Context(), b)
			var n int
			saw = append(saw, fmt.Sprint(r.QueryRow().Scan(&n), n))
			_, err := r.Exec()
			saw = append(saw, fmt.Sprint(err))
			_, err = r.Exec()
			saw = append(saw, fmt.Sprint(err != nil))
			first, second := r.Close(), r.Close()
			saw = append(saw, fmt.Sprint(first != nil, fmt.Sprint(first) == fmt.Sprint(second)))
			_, err = r.Exec()
			saw = append(saw, fmt.Sprint(err != nil, db.Stat().AcquiredConns()))
			saw = append(saw, fmt.Sprint(db.SendBatch(t.Context(), &pgx.Batch{}).Close()))
			return saw
		},
		"transactions nest": func(t *testing.T, db drop) (saw []string) {
			if _, err := db.Exec(t.Context(), "create temporary table if not exists never (n int)"); err != nil {
				t.Fatal(err)
			}
			err := pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
				if _, err := tx.Exec(t.Context(), "insert into authors (name) values ('outer')"); err != nil {
					return err
				}
				err := pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
					if _, err := tx.Exec(t.Context(), "insert into authors (name) values ('inner')"); err != nil {
						return err
					}
					return errStop
				})
				saw = append(saw, fmt.Sprint(errors.Is(err, errStop)))
				return nil
			})
			saw = append(saw, fmt.Sprint(err))
			rows, _ := db.Query(t.Context(), "delete from authors returning name")
			names, err := pgx.CollectRows(rows, pgx.RowTo[string])
			return append(saw, fmt.Sprint(names, err, db.Stat().AcquiredConns()))
		},
		"a transaction that cannot begin costs no connection": func(t *testing.T, db drop) (saw []string) {
			for range 4 {
				_, err := db.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: "nonsense"})
				saw = append(saw, fmt.Sprint(err != nil))
			}
			eventually(t, "the connections are back", func() error {
				if n := db.Stat().AcquiredConns(); n != 0 {
					return fmt.Errorf("%d acquired", n)
				}
				return nil
			})
			return append(saw, fmt.Sprint(db.Ping(t.Context())))
		},
		"a transaction after its end": func(t *testing.T, db drop) []string {
			tx, err := db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			err = tx.Commit(t.Context())
			_, err2 := tx.Exec(t.Context(), "select 1")
			return []string{fmt.Sprint(err, errors.Is(err2, pgx.ErrTxClosed), errors.Is(tx.Commit(t.Context()), pgx.ErrTxClosed),
				errors.Is(tx.Rollback(t.Context()), pgx.ErrTxClosed))}
		},
		"a failed transaction does not commit": func(t *testing.T, db drop) []string {
			tx, err := db.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, err = tx.Exec(t.Context(), "select nonsense")
			return []string{fmt.Sprint(err != nil, errors.Is(tx.Commit(t.Context()), pgx.ErrTxCommitRollback), db.Stat().AcquiredConns())}
		},
		"copies": func(t *testing.T, db drop) (saw []string) {
			n, err := db.CopyFrom(t.Context(), pgx.Identifier{"authors"}, []string{"name"}, pgx.CopyFromRows([][]any{{"a"}, {"b"}}))
			saw = append(saw, fmt.Sprint(n, err))
			n, err = db.CopyFrom(t.Context(), pgx.Identifier{"authors"}, []string{"name"}, pgx.CopyFromFunc(func() ([]any, error) { return nil, errStop }))
			saw = append(saw, fmt.Sprint(n, err != nil))
			tag, err := db.Exec(t.Context(), "delete from authors")
			return append(saw, fmt.Sprint(tag, err))
		},
	} {
		t.Run(scene, func(t *testing.T) {
			plain, err := pgxpool.NewWithConfig(t.Context(), config())
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			db, err := pool.NewWithConfig(t.Context(), config(), pool.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if got, want := play(t, db), play(t, plain); !slices.Equal(got, want) {
				t.Errorf("pool saw    %q\npgxpool saw %q", got, want)
			}
		})
	}
}

// panicky panics when it is scanned into.
type panicky struct{}

func (panicky) ScanInt64(any) error { return nil }
func (panicky) Scan(any) error      { panic("the user's") }

// Every hook of a pgxpool.Config is called, for each connection of the application's.
func TestHooks(t *testing.T) {
	pg, name := database(t)
	c, err := pgxpool.ParseConfig(pg.Primary.URL(name))
	if err != nil {
		t.Fatal(err)
	}
	var beforeConnect, afterConnect, prepare, release, beforeClose, notices atomic.Int32
	c.MaxConns = 2
	c.BeforeConnect = func(_ context.Context, cc *pgx.ConnConfig) error {
		beforeConnect.Add(1)
		cc.RuntimeParams["application_name"] = "hooked"
		return nil
	}
	c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		afterConnect.Add(1)
		_, err := conn.Exec(ctx, "set statement_timeout = 7000")
		return err
	}
	c.PrepareConn = func(context.Context, *pgx.Conn) (bool, error) { prepare.Add(1); return true, nil }
	c.AfterRelease = func(*pgx.Conn) bool { release.Add(1); return true }
	c.BeforeClose = func(*pgx.Conn) { beforeClose.Add(1) }
	c.ConnConfig.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { notices.Add(1) }
	db, err := pool.NewWithConfig(t.Context(), c, pool.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var app, timeout string
	if err := db.QueryRow(t.Context(), "select current_setting('application_name'), current_setting('statement_timeout')").Scan(&app, &timeout); err != nil {
		t.Fatal(err)
	}
	if app != "hooked" || timeout != "7s" {
		t.Errorf("%s, %s", app, timeout)
	}
	if _, err := db.Exec(t.Context(), "do $$ begin raise notice 'x'; end $$"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	for hook, n := range map[string]int32{"BeforeConnect": beforeConnect.Load(), "AfterConnect": afterConnect.Load(), "PrepareConn": prepare.Load(),
		"AfterRelease": release.Load(), "BeforeClose": beforeClose.Load(), "OnNotice": notices.Load()} {
		if n == 0 {
			t.Errorf("%s was not called", hook)
		}
	}
}
