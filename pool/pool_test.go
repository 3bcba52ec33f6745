package pool_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
)

// A write in one pool, then a read in another that knows of the first nothing but the token, with one replica that has
// stopped replaying: no read misses the write, and replicas serve most of them. Without the token the same reads miss many.
func TestReadYourWritesInAnotherPool(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	writer := open(t, pg, name, pool.Options{Name: "writer", MaxConns: 4})
	reader := open(t, pg, name, pool.Options{Name: "reader", MaxConns: 4})
	exec(t, writer, "create table kv (id bigint primary key, n bigint not null)")
	exec(t, writer, "insert into kv select i, 0 from generate_series(1, 4) i")
	onReplicas(t, reader, 2)
	if err := pg.Replicas[1].WaitReplayed(t.Context()); err != nil {
		t.Fatal(err)
	}
	pause(t, pg.Replicas[1])

	const workers, rounds = 4, 500
	var stale, staleWithout atomic.Int64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for n := range int64(rounds) {
				ctx, _ := causal.Begin(t.Context())
				if _, err := writer.Exec(ctx, "update kv set n = $2 where id = $1", w+1, n+1); err != nil {
					t.Error(err)
					return
				}
				token, err := causal.Token(ctx)
				if err != nil {
					t.Error(err)
					return
				}
				there, err := causal.AtLeast(t.Context(), token)
				if err != nil {
					t.Error(err)
					return
				}
				var with, without int64
				const read = "select n from kv where id = $1"
				if err := reader.ReadOnly().QueryRow(t.Context(), read, w+1).Scan(&without); err != nil {
					t.Error(err)
					return
				}
				if err := reader.ReadOnly().QueryRow(there, read, w+1).Scan(&with); err != nil {
					t.Error(err)
					return
				}
				if with != n+1 {
					stale.Add(1)
				}
				if without != n+1 {
					staleWithout.Add(1)
				}
			}
		})
	}
	wg.Wait()
	st := reader.Stats()
	t.Logf("%d pairs: %d stale; without the token %d; %+v", workers*rounds, stale.Load(), staleWithout.Load(), st)
	if stale.Load() != 0 {
		t.Errorf("%d of %d reads missed the write that their token names", stale.Load(), workers*rounds)
	}
	if staleWithout.Load() == 0 {
		t.Error("no read without the token was stale: this test could not have failed")
	}
	// Half of the reads had no token, and went to replicas all.
	if served := st.ReadsReplica - workers*rounds; served < workers*rounds/2 {
		t.Errorf("replicas served %d of %d reads with a token", served, workers*rounds)
	}
}

// One scope reads again and again while somebody else writes, over a replica that is current and one that lags: what it
// reads never goes back. Without a scope it does.
func TestMonotonicReads(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := open(t, pg, name, pool.Options{MaxConns: 4})
	exec(t, db, "create table counter (n bigint not null)")
	exec(t, db, "insert into counter values (0)")
	onReplicas(t, db, 2)
	delay(t, pg.Replicas[1])

	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := db.Exec(ctx, "update counter set n = n + 1"); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	scoped, _ := causal.Begin(t.Context())
	const reads = 2000
	back := func(ctx context.Context) (n int) {
		last := int64(-1)
		for range reads {
			var now int64
			if err := db.ReadOnly().QueryRow(ctx, "select n from counter").Scan(&now); err != nil {
				t.Fatal(err)
			}
			if now < last {
				n++
			}
			last = now
		}
		return n
	}
	without := back(t.Context())
	before := db.Stats()
	with := back(scoped)
	after := db.Stats()
	stop()
	wg.Wait()
	served := after.ReadsReplica - before.ReadsReplica
	t.Logf("%d reads: %d backwards, %d from replicas; without a scope %d backwards", reads, with, served, without)
	if with != 0 {
		t.Errorf("%d of %d reads of one scope went back", with, reads)
	}
	if without == 0 {
		t.Error("no read without a scope went back: this test could not have failed")
	}
	if served < reads*3/10 {
		t.Errorf("replicas served %d of %d", served, reads)
	}
}

// The same within one scope that reads the primary too, by plain methods.
func TestReadsOfThePrimaryCount(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := open(t, pg, name, pool.Options{MaxConns: 4})
	exec(t, db, "create table counter (n bigint not null)")
	exec(t, db, "insert into counter values (0)")
	onReplicas(t, db, 2)
	pause(t, pg.Replicas[0])
	pause(t, pg.Replicas[1])
	for i := range int64(50) {
		exec(t, db, "update counter set n = n + 1") // somebody else's
		ctx, scope := causal.Begin(t.Context())
		var plain, view int64
		if err := db.QueryRow(ctx, "select n from counter").Scan(&plain); err != nil {
			t.Fatal(err)
		}
		if scope.Written(ctx) != "" {
			t.Fatalf("a plain read counts as a write: %s", scope.Written(ctx))
		}
		if err := db.ReadOnly().QueryRow(ctx, "select n from counter").Scan(&view); err != nil {
			t.Fatal(err)
		}
		if plain != i+1 || view < plain {
			t.Fatalf("round %d: the primary said %d, then the view %d", i, plain, view)
		}
	}
	if st := db.Stats(); st.ReadsSpilled != 50 {
		t.Errorf("%d of 50 reads went to the primary for want of a replica", st.ReadsSpilled)
	}
}

// Reads without a scope go to replicas, as quick as each of them is, and none to the primary.
func TestReplicasShareTheReads(t *testing.T) {
	pg := shared(t)
	db := open(t, pg, database(t, pg), pool.Options{MaxConns: 4})
	onReplicas(t, db, 2)
	for range 400 {
		var one int
		if err := db.ReadOnly().QueryRow(t.Context(), "select 1").Scan(&one); err != nil {
			t.Fatal(err)
		}
	}
	var replicas uint64
	for _, n := range db.Stats().Nodes {
		if n.Role == "primary" && n.Reads != 0 {
			t.Errorf("the primary served %d of 400", n.Reads)
		}
		if n.Role == "replica" {
			replicas += n.Reads
		}
	}
	if replicas != 400 {
		t.Errorf("the replicas served %d of 400", replicas)
	}
}

// What replicas cannot serve may take a fifth of the primary's connections and no more.
func TestSpillIsCapped(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := open(t, pg, name, pool.Options{MaxConns: 10, AcquireTimeout: 2 * backstop})
	exec(t, db, "create table t (n int)")
	onReplicas(t, db, 2)
	pause(t, pg.Replicas[0])
	pause(t, pg.Replicas[1])
	ctx, _ := causal.Begin(t.Context())
	if _, err := db.Exec(ctx, "insert into t values (1)"); err != nil {
		t.Fatal(err)
	}
	token, err := causal.Token(ctx)
	if err != nil {
		t.Fatal(err)
	}
	most := int64(0)
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			ctx, err := causal.AtLeast(t.Context(), token)
			if err != nil {
				t.Error(err)
			}
			var n int
			if err := db.ReadOnly().QueryRow(ctx, "select n from t, pg_sleep(0.05)").Scan(&n); err != nil || n != 1 {
				t.Error(n, err)
			}
		})
	}
	finished := make(chan struct{})
	go func() { wg.Wait(); close(finished) }()
	for done := false; !done; {
		select {
		case <-finished:
			done = true
		default:
			for _, n := range db.Stats().Nodes {
				if n.Role == "primary" {
					most = max(most, n.InUse)
				}
			}
		}
	}
	// The cap is 2; a record that makes the position reachable may take one more for a moment.
	if most > 3 {
		t.Errorf("%d connections of 10 served reads that replicas could not", most)
	}
	if st := db.Stats(); st.ReadsPrimary != 12 {
		t.Errorf("%d of 12 reads were served by the primary", st.ReadsPrimary)
	}
}

func TestRequireReplica(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	db := openURL(t, pg.Primary.URL(name), pool.Options{})
	var one int
	err := db.ReadOnly().With(pool.ReadOptions{RequireReplica: true}).QueryRow(t.Context(), "select 1").Scan(&one)
	if !errors.Is(err, pool.ErrStale) {
		t.Error(err)
	}
	if err := db.ReadOnly().QueryRow(t.Context(), "select 1").Scan(&one); err != nil {
		t.Error(err)
	}
	rows, err := db.ReadOnly().Query(t.Context(), "select 1")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int]); n != 1 || err != nil {
		t.Error(n, err)
	}
}

// The numbers are there for the service's page, a server's with its name and role.
func TestSamples(t *testing.T) {
	pg := shared(t)
	db := open(t, pg, database(t, pg), pool.Options{Name: "shop", MaxConns: 2})
	onReplicas(t, db, 2)
	var one int
	if err := db.ReadOnly().QueryRow(t.Context(), "select 1").Scan(&one); err != nil {
		t.Fatal(err)
	}
	routed, up := 0.0, make(map[string]int)
	for s := range db.Samples() {
		attrs := make(map[string]string)
		for _, a := range s.Attrs {
			attrs[a.Key] = a.Value
		}
		if attrs["pool"] != "shop" {
			t.Errorf("%+v is not said to be the shop's", s)
		}
		switch {
		case s.Name == "fairlead.pool.route" && attrs["target"] == "replica":
			routed = s.Value
		case s.Name == "fairlead.pool.node.up" && s.Value == 1:
			up[attrs["role"]]++
		}
	}
	if routed != 1 || up["primary"] != 1 || up["replica"] != 2 {
		t.Errorf("%v reads from replicas, up: %v", routed, up)
	}
	for range db.Samples() {
		break
	}
}

// A refusal for good is not waited out.
func TestRefusedForGood(t *testing.T) {
	pg := shared(t)
	db := openURL(t, pg.Primary.URL("no_such_database"), pool.Options{FailoverTimeout: 10 * backstop})
	_, err := db.Exec(t.Context(), "select 1")
	if !errors.Is(err, pool.ErrNoPrimary) || !strings.Contains(err.Error(), "no_such_database") {
		t.Errorf("Exec: %v", err)
	}
	if _, err := db.ReadOnly().Exec(t.Context(), "select 1"); !errors.Is(err, pool.ErrStale) {
		t.Errorf("view: %v", err)
	}
}

// A role without any privilege but its own tables is enough for everything but what the package's documentation says of
// failovers.
func TestOrdinaryRole(t *testing.T) {
	pg := shared(t)
	name := database(t, pg)
	admin := openURL(t, pg.Primary.URL(name), pool.Options{MaxConns: 2})
	role := "plain_" + name
	exec(t, admin, "create role "+role+" login")
	exec(t, admin, "grant create on schema public to "+role)
	t.Cleanup(func() {
		if _, err := admin.Exec(context.Background(), "drop owned by "+role+"; drop role "+role); err != nil {
			t.Error(err)
		}
	})
	as := func(n string) string {
		u, err := url.Parse(n)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.User(role)
		return u.String()
	}
	db := openURL(t, as(pg.Primary.URL(name)), pool.Options{MaxConns: 2, Replicas: []string{as(pg.Replicas[0].URL(name)), as(pg.Replicas[1].URL(name))}})
	onReplicas(t, db, 2)
	exec(t, db, "create table t (n int)")
	exec(t, db, "insert into t values (0)")
	view := db.ReadOnly().With(pool.ReadOptions{RequireReplica: true, WaitUpTo: backstop})
	for i := range 20 {
		ctx, _ := causal.Begin(t.Context())
		if _, err := db.Exec(ctx, "update t set n = $1", i); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := view.QueryRow(ctx, "select n from t").Scan(&n); err != nil || n != i {
			t.Fatalf("round %d: %d, %v", i, n, err)
		}
	}
}
