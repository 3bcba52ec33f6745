package pool_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

// alternate returns an address behind which the nodes take turns, a connection each.
func alternate(t testing.TB, nodes ...*testenv.Node) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); l.Close(); wg.Wait() })
	wg.Go(func() {
		for i := 0; ; i++ {
			client, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer client.Close()
				server, err := net.Dial("tcp", nodes[i%len(nodes)].Addr())
				if err != nil {
					return
				}
				defer server.Close()
				stop := context.AfterFunc(ctx, func() { client.Close(); server.Close() })
				defer stop()
				var both sync.WaitGroup
				both.Go(func() { io.Copy(server, client); server.(*net.TCPConn).CloseWrite() })
				both.Go(func() { io.Copy(client, server); client.(*net.TCPConn).CloseWrite() })
				both.Wait()
			})
		}
	})
	return l.Addr().String()
}

// One address hides two replicas, one of which lags: no read under a scope misses its write or goes back, and none without
// one is older than it may be. Reads that trust what another connection said would be.
func TestSeveralServersBehindOneAddress(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 4,
		Replicas: []string{testenv.PostgresURL(alternate(t, pg.Replicas...), name)}})
	exec(t, db, "create table kv (id int primary key, n int not null)")
	exec(t, db, "insert into kv select i, 0 from generate_series(1, 4) i")
	onReplicas(t, db, 1)
	for _, r := range pg.Replicas {
		if err := r.WaitReplayed(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	pause(t, pg.Replicas[1])
	const workers, rounds = 4, 60
	var stale, without atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				ctx, _ := causal.Begin(t.Context())
				if _, err := db.Exec(ctx, "update kv set n = $2 where id = $1", w+1, i+1); err != nil {
					t.Error(err)
					return
				}
				for range 2 {
					var n, free int
					const read = "select n from kv where id = $1"
					if err := db.ReadOnly().QueryRow(ctx, read, w+1).Scan(&n); err != nil {
						t.Error(err)
						return
					}
					if err := db.ReadOnly().QueryRow(t.Context(), read, w+1).Scan(&free); err != nil {
						t.Error(err)
						return
					}
					if n != i+1 {
						stale.Add(1)
					}
					if free != i+1 {
						without.Add(1)
					}
				}
			}
		})
	}
	wg.Wait()
	st := db.Stats()
	t.Logf("%d stale, without a scope %d, of %d; %+v", stale.Load(), without.Load(), 2*workers*rounds, st)
	if stale.Load() != 0 {
		t.Errorf("%d reads missed their write", stale.Load())
	}
	if without.Load() == 0 {
		t.Error("no read without a scope was stale: this test could not have failed")
	}
	several := false
	for _, n := range st.Nodes {
		several = several || n.Several
	}
	if !several {
		t.Error("it was not noticed that the address hides several servers")
	}
	if st.ReadsReplica == 0 {
		t.Error("replicas served nothing")
	}
	// What is older than a read allows does not serve, although the other server at the address is current.
	exec(t, db, "update kv set n = -1")
	time.Sleep(300 * time.Millisecond) // the age in question, not a wait for something
	bounded := db.ReadOnly().With(pool.ReadOptions{MaxStaleness: 300 * time.Millisecond})
	for i := range 100 {
		var n int
		if err := bounded.QueryRow(t.Context(), "select n from kv where id = 1").Scan(&n); err != nil || n != -1 {
			t.Fatalf("read %d: %d, %v", i, n, err)
		}
	}
}

// A service without positions: whoever has written reads the primary for a while; others read replicas.
func TestNoPositions(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	setup := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 2})
	exec(t, setup, "create schema fake")
	for _, f := range []string{"pg_current_wal_insert_lsn", "pg_last_wal_replay_lsn", "pg_current_wal_lsn"} {
		exec(t, setup, "create function fake."+f+"() returns pg_lsn language plpgsql as $$begin raise feature_not_supported; end$$")
	}
	exec(t, setup, "create table t (n int)")
	exec(t, setup, "insert into t values (0)")
	for _, r := range pg.Replicas {
		if err := r.WaitReplayed(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	as := func(n *testenv.Node) string { return n.URL(name) + "&search_path=fake,pg_catalog,public" }
	db := openURL(t, as(pg.Primary), pool.Options{MaxConns: 4, StickyFor: 2 * time.Second, Replicas: []string{as(pg.Replicas[0]), as(pg.Replicas[1])}})
	eventually(t, "replicas", func() error {
		n := 0
		for _, x := range db.Stats().Nodes {
			if x.Role == "replica" && x.State == "up" {
				n++
			}
		}
		return enough(n, 2)
	})
	var n int
	ctx, scope := causal.Begin(t.Context())
	read := func() error { return db.ReadOnly().QueryRow(ctx, "select n from t").Scan(&n) }
	if err := read(); err != nil || n != 0 {
		t.Fatal(n, err)
	}
	if err := db.QueryRow(ctx, "select n from t").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if scope.Seen() != "" || scope.Written(ctx) != "" {
		t.Errorf("reads have left %q, %q", scope.Seen(), scope.Written(ctx))
	}
	if st := db.Stats(); st.ReadsReplica != 1 || st.ReadsPrimary != 0 {
		t.Fatalf("%+v", st)
	}
	pause(t, pg.Replicas[0])
	pause(t, pg.Replicas[1])
	for i, write := range []func() error{
		func() error { _, err := db.Exec(ctx, "update t set n = 1"); return err },
		func() error { return db.QueryRow(ctx, "update t set n = 2 returning n").Scan(&n) },
		func() error {
			return db.AcquireFunc(ctx, func(c *pgxpool.Conn) error { _, err := c.Exec(ctx, "update t set n = 3"); return err })
		},
	} {
		ctx, _ = causal.Begin(t.Context())
		before := db.Stats().ReadsPrimary
		began := time.Now()
		if err := write(); err != nil {
			t.Fatal(err)
		}
		err := read()
		if time.Since(began) > 2*time.Second {
			continue // too busy a machine for the bet
		}
		if err != nil || n != i+1 || db.Stats().ReadsPrimary != before+1 {
			t.Errorf("write %d: %d, %v, %+v", i, n, err, db.Stats())
		}
	}
	ctx, _ = causal.Begin(t.Context())
	if err := read(); err != nil || n != 0 {
		t.Errorf("a scope that has not written: %d, %v", n, err)
	}
	token, err := db.Now(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ctx, err = causal.AtLeast(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	if err := read(); err != nil || n != 3 {
		t.Errorf("with a token of now: %d, %v", n, fmt.Sprint(err))
	}
}
