package pool_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
)

// servers is a primary with two replicas that most tests share. Tests that kill or promote start their own.
var servers = testenv.Share(func(ctx context.Context) (*testenv.Postgres, error) {
	return testenv.StartPostgres(ctx, testenv.PostgresOptions{Replicas: 2})
})

func TestMain(m *testing.M) {
	os.Exit(testenv.Main(m.Run, servers))
}

func shared(t testing.TB) *testenv.Postgres {
	t.Helper()
	pg, err := servers.Get()
	if err != nil {
		t.Fatal(err)
	}
	return pg
}

// database returns the name of a new database of pg that every replica has.
func database(t testing.TB, pg *testenv.Postgres) string {
	t.Helper()
	name, err := pg.CreateDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// open returns a pool on all of pg's nodes, closed at the end of the test.
func open(t testing.TB, pg *testenv.Postgres, db string, o pool.Options) *pool.Pool {
	t.Helper()
	for _, r := range pg.Replicas {
		o.Replicas = append(o.Replicas, r.URL(db))
	}
	return openURL(t, pg.Primary.URL(db), o)
}

func openURL(t testing.TB, url string, o pool.Options) *pool.Pool {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(testLog{t}, nil))
	}
	p, err := pool.New(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	if l.t.Context().Err() == nil { // what is said while the pool closes is nobody's
		l.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

const backstop = 45 * time.Second

// eventually polls until what holds.
func eventually(t testing.TB, what string, holds func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(backstop); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if err = holds(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

func exec(t testing.TB, db *pool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// onReplicas waits until db sees n replicas that have everything of now, so what was written before is on them.
func onReplicas(t testing.TB, db *pool.Pool, n int) {
	t.Helper()
	since := time.Now()
	eventually(t, "replicas", func() error {
		st := db.Stats()
		current := 0
		for _, x := range st.Nodes {
			if x.Role == "replica" && x.State == "up" && x.Lag >= 0 && x.Lag < time.Since(since) {
				current++
			}
		}
		if current < n {
			return fmt.Errorf("%d of %d are current: %+v", current, n, st.Nodes)
		}
		return nil
	})
}

// pause stops a replica's replay until the test ends.
func pause(t testing.TB, n *testenv.Node) {
	t.Helper()
	t.Cleanup(func() {
		if err := n.ResumeReplay(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := n.PauseReplay(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// delay lets a replica lag behind by 100 ms until the test ends.
func delay(t testing.TB, n *testenv.Node) {
	t.Helper()
	t.Cleanup(func() {
		if err := n.SetApplyDelay(context.Background(), 0); err != nil {
			t.Error(err)
		}
	})
	if err := n.SetApplyDelay(t.Context(), 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
}
