package consistency

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/testenv"
)

// recorder keeps what sessions do, in the order of each session.
type recorder struct {
	mu      sync.Mutex
	history []event
	failed  atomic.Int64 // operations that failed
}

func (r *recorder) add(e event) {
	r.mu.Lock()
	r.history = append(r.history, e)
	r.mu.Unlock()
}

// session writes and reads keys at random, on a process at random, with the token of what it did before, until stop is closed
// and it has done at least least things.
func (r *recorder) session(ctx context.Context, id, keys, least int, on []doer, stop <-chan struct{}) {
	token := ""
	rnd := rand.New(rand.NewPCG(uint64(id), 1))
	for n := 0; ; n++ {
		select {
		case <-stop:
			if n >= least {
				return
			}
		default:
		}
		q := ask{Op: "read", Key: rnd.IntN(keys), Token: token}
		if rnd.IntN(3) == 0 {
			q.Op, q.By = "write", int64(id)<<32|int64(n)
		}
		a := on[rnd.IntN(len(on))].do(ctx, q)
		if a.Token != "" {
			token = a.Token
		}
		e := event{session: id, key: q.Key, kind: read, version: a.Version, by: a.By}
		if q.Op == "write" {
			e.kind = wrote
		}
		switch {
		case a.Lost:
			e.kind = toldOff
		case a.Err != "":
			r.failed.Add(1)
			if e.kind == read {
				continue
			}
			e.kind = tried
		}
		r.add(e)
	}
}

// run lets sessions go on over two processes while faults happens to the servers, and audits what they saw.
func run(t *testing.T, pg *testenv.Postgres, sessions, least, failovers int, faults func(t *testing.T)) {
	const keys = 5
	s := table(t, pg, keys)
	on := []doer{startHere(t, s), startProcess(t, s)}
	var r recorder
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for id := range sessions {
		wg.Go(func() { r.session(context.Background(), id, keys, least, on, stop) })
	}
	faults(t)
	close(stop)
	wg.Wait()
	if t.Failed() {
		return
	}
	l := limits{told: failovers, final: make(map[int]int64)}
	for k := range keys {
		a := on[0].do(t.Context(), ask{Op: "write", Key: k}) // from the primary
		if a.Err != "" {
			t.Fatal(a.Err)
		}
		l.final[k] = a.Version - 1
	}
	var reads, writes, told int
	for _, e := range r.history {
		switch e.kind {
		case read:
			reads++
		case wrote:
			writes++
		case toldOff:
			told++
		}
	}
	wrong := audit(r.history, l)
	for _, w := range wrong[:min(len(wrong), 10)] {
		t.Error(w)
	}
	st := on[0].(*worker).db.Stats()
	if writes == 0 || reads == 0 || st.ReadsReplica == 0 {
		t.Errorf("%d writes, %d reads, %+v", writes, reads, st)
	}
	t.Logf("soak: %d reads and %d writes of %d sessions over two processes, %d failovers: %d violations; %d operations failed, %d sessions told of a loss",
		reads, writes, sessions, failovers, len(wrong), r.failed.Load(), told)
}

// must fails the test from a fault.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// replicaFaults pauses, delays, kills and starts the replicas, one after the other.
func replicaFaults(t *testing.T, pg *testenv.Postgres, rounds int) {
	ctx := t.Context()
	for i := range rounds {
		r := pg.Replicas[i%2]
		must(t, r.PauseReplay(ctx))
		time.Sleep(100 * time.Millisecond) // the sessions' time under this fault, not a wait for anything
		must(t, r.ResumeReplay(ctx))
		must(t, r.SetApplyDelay(ctx, 150*time.Millisecond))
		time.Sleep(200 * time.Millisecond)
		must(t, r.SetApplyDelay(ctx, 0))
		must(t, r.Kill())
		time.Sleep(50 * time.Millisecond)
		must(t, r.Start(ctx))
		time.Sleep(200 * time.Millisecond)
	}
}

// failover kills the primary, promotes a replica, and lets the other follow it.
func failover(t *testing.T, pg *testenv.Postgres) {
	ctx := t.Context()
	must(t, pg.Replicas[1].PauseReplay(ctx)) // it will have received what it has not shown
	time.Sleep(100 * time.Millisecond)
	must(t, pg.Primary.Kill())
	must(t, pg.Replicas[0].Promote(ctx))
	must(t, pg.Replicas[1].ResumeReplay(ctx))
	time.Sleep(300 * time.Millisecond)
	must(t, pg.Replicas[1].Follow(ctx, pg.Replicas[0]))
	time.Sleep(500 * time.Millisecond)
}

// own starts servers for a test that breaks them.
func own(t *testing.T) *testenv.Postgres {
	t.Helper()
	pg, err := testenv.StartPostgres(t.Context(), testenv.PostgresOptions{Replicas: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	return pg
}

// With replicas paused, late, killed and restarted, no session reads behind its writes or its reads, and nothing is lost.
func TestHistoryUnderReplicaFaults(t *testing.T) {
	pg := own(t)
	run(t, pg, 6, 100, 0, func(t *testing.T) { replicaFaults(t, pg, 2) })
}

// After a failover that loses writes, those whose writes may be lost are told, once; all others see on.
func TestHistoryOverAFailover(t *testing.T) {
	pg := own(t)
	run(t, pg, 6, 100, 1, func(t *testing.T) { failover(t, pg) })
}
