package consistency

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/cache/rediscache"
	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/pool"
	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/scale/redisconn"
)

const envWorker = "FAIRLEAD_CONSISTENCY_WORKER" // settings, as JSON

func TestMain(m *testing.M) {
	if s := os.Getenv(envWorker); s != "" {
		if err := work(s, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(testenv.Main(m.Run, servers, redises))
}

var (
	servers = testenv.Share(func(ctx context.Context) (*testenv.Postgres, error) {
		return testenv.StartPostgres(ctx, testenv.PostgresOptions{Replicas: 2})
	})
	redises = testenv.Share(func(ctx context.Context) (*testenv.Redis, error) {
		return testenv.StartRedis(ctx, testenv.RedisOptions{})
	})
)

// settings are what a worker is made of.
type settings struct {
	URLs  []string // of the database, the primary's first
	Redis string   // none: no cache
	Name  string   // of the cache
}

// ask is what a worker is to do, answer what came out.
type (
	ask struct {
		ID    int
		Op    string // write, read, get (through the cache), change (write and invalidate)
		Key   int
		Token string
		Free  bool  // without a scope
		By    int64 // of a write: what tells it from every other
	}
	answer struct {
		ID      int
		Version int64
		By      int64 // of the write that made the version
		Token   string
		Replica bool // a read: served by a replica
		Lost    bool // CausalityLostError
		Unknown bool // ErrOutcomeUnknown
		Err     string
	}
)

// worker is one process's pool and cache.
type worker struct {
	db     *pool.Pool
	values *cache.Cache[int, int64]
	rdb    *redisconn.Client
}

const (
	readSQL  = "select v, by, pg_is_in_recovery() from kv where k = $1"
	writeSQL = "update kv set v = v + 1, by = $2 where k = $1 returning v"
)

func newWorker(ctx context.Context, s settings) (*worker, error) {
	w := &worker{}
	var err error
	w.db, err = pool.New(ctx, s.URLs[0], pool.Options{Replicas: s.URLs[1:], MaxConns: 8, Logger: slog.New(slog.DiscardHandler)})
	if err != nil || s.Redis == "" {
		return w, err
	}
	if w.rdb, err = redisconn.Open(s.Redis); err != nil {
		return w, err
	}
	load := func(ctx context.Context, k int) (v int64, err error) {
		return v, w.view().QueryRow(ctx, readSQL, k).Scan(&v, nil, nil)
	}
	w.values, err = cache.New(s.Name, load, cache.Options[int, int64]{TTL: time.Hour, Remote: rediscache.New(w.rdb)})
	return w, err
}

// view takes any replica, however old, so that only tokens keep old answers away.
func (w *worker) view() pool.View { return w.db.ReadOnly().With(pool.ReadOptions{MaxStaleness: -1}) }

func (w *worker) close() {
	if w.values != nil {
		w.values.Close()
	}
	if w.rdb != nil {
		w.rdb.Close()
	}
	if w.db != nil {
		w.db.Close()
	}
}

func (w *worker) do(ctx context.Context, q ask) answer {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	a := answer{ID: q.ID}
	var err error
	if !q.Free {
		if ctx, err = causal.AtLeast(ctx, q.Token); err != nil {
			a.Err = err.Error()
			return a
		}
	}
	switch q.Op {
	case "write":
		err = w.db.QueryRow(ctx, writeSQL, q.Key, q.By).Scan(&a.Version)
		a.By = q.By
	case "read":
		err = w.view().QueryRow(ctx, readSQL, q.Key).Scan(&a.Version, &a.By, &a.Replica)
	case "get":
		a.Version, err = w.values.Get(ctx, q.Key)
	case "change":
		if err = w.db.QueryRow(ctx, writeSQL, q.Key, q.By).Scan(&a.Version); err == nil {
			err = w.values.Invalidate(ctx, q.Key)
		}
	default:
		err = fmt.Errorf("unknown op %q", q.Op)
	}
	if err != nil {
		a.Err, a.Unknown = err.Error(), errors.Is(err, pool.ErrOutcomeUnknown)
		a.Lost = errors.As(err, new(*pool.CausalityLostError))
	}
	if !q.Free {
		token, err := causal.Token(ctx)
		if err != nil && a.Err == "" {
			a.Err = err.Error()
		}
		a.Token = token
	}
	return a
}

// work is a worker's process: it answers each line of in by one of out, until in ends.
func work(with string, in io.Reader, out io.Writer) error {
	var s settings
	if err := json.Unmarshal([]byte(with), &s); err != nil {
		return err
	}
	w, err := newWorker(context.Background(), s)
	defer w.close()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	enc := json.NewEncoder(out)
	var wg sync.WaitGroup
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var q ask
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return err
		}
		wg.Go(func() {
			a := w.do(context.Background(), q)
			mu.Lock()
			defer mu.Unlock()
			enc.Encode(a)
		})
	}
	wg.Wait()
	return nil
}

// doer is a worker, here or in another process.
type doer interface {
	do(context.Context, ask) answer
}

// process is a worker in another process.
type process struct {
	in io.WriteCloser

	mu      sync.Mutex
	next    int
	waiting map[int]chan answer
	ended   bool
}

func startProcess(t testing.TB, s settings) *process {
	t.Helper()
	with, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envWorker+"="+string(with))
	cmd.Stderr = os.Stderr
	p := &process{waiting: make(map[int]chan answer)}
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for dec := json.NewDecoder(out); ; {
			var a answer
			err := dec.Decode(&a)
			p.mu.Lock()
			if err != nil {
				p.ended = true
				for _, c := range p.waiting {
					c <- answer{Err: "the worker has ended"}
				}
				p.mu.Unlock()
				return
			}
			c := p.waiting[a.ID]
			delete(p.waiting, a.ID)
			p.mu.Unlock()
			c <- a
		}
	}()
	t.Cleanup(func() {
		p.in.Close()
		<-done
		if err := cmd.Wait(); err != nil {
			t.Errorf("worker: %v", err)
		}
	})
	return p
}

func (p *process) do(_ context.Context, q ask) answer {
	c := make(chan answer, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return answer{Err: "the worker has ended"}
	}
	p.next++
	q.ID = p.next
	p.waiting[q.ID] = c
	line, _ := json.Marshal(q)
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		delete(p.waiting, q.ID)
		return answer{Err: err.Error()}
	}
	p.mu.Unlock()
	a := <-c
	p.mu.Lock()
	return a
}

// startHere is a worker in this process.
func startHere(t testing.TB, s settings) *worker {
	t.Helper()
	w, err := newWorker(t.Context(), s)
	t.Cleanup(w.close)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// table makes a database with keys 0 to n-1 at version 0 on all of pg's nodes, and returns the settings for its workers.
func table(t testing.TB, pg *testenv.Postgres, n int) settings {
	t.Helper()
	name, err := pg.CreateDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := settings{URLs: []string{pg.Primary.URL(name)}, Name: name}
	for _, r := range pg.Replicas {
		s.URLs = append(s.URLs, r.URL(name))
	}
	db, err := pool.New(t.Context(), s.URLs[0], pool.Options{MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, sql := range []string{"create table kv (k int primary key, v bigint not null, by bigint not null)",
		fmt.Sprintf("insert into kv select i, 0, 0 from generate_series(0, %d) i", n-1)} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range pg.Replicas {
		if err := r.WaitReplayed(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func postgres(t testing.TB) *testenv.Postgres {
	t.Helper()
	pg, err := servers.Get()
	if err != nil {
		t.Fatal(err)
	}
	return pg
}

// lag is how far behind a replica is to be.
type lag time.Duration

const paused lag = -1

func (l lag) String() string {
	if l == paused {
		return "paused"
	}
	return time.Duration(l).String()
}

// lagging puts pg's replicas behind until the test ends.
func lagging(t testing.TB, pg *testenv.Postgres, lags []lag) {
	t.Helper()
	for i, l := range lags {
		r := pg.Replicas[i]
		switch l {
		case 0:
		case paused:
			t.Cleanup(func() {
				if err := r.ResumeReplay(context.Background()); err != nil {
					t.Error(err)
				}
			})
			if err := r.PauseReplay(t.Context()); err != nil {
				t.Fatal(err)
			}
		default:
			t.Cleanup(func() {
				if err := r.SetApplyDelay(context.Background(), 0); err != nil {
					t.Error(err)
				}
			})
			if err := r.SetApplyDelay(t.Context(), time.Duration(l)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func names(lags []lag) string {
	var out []string
	for _, l := range lags {
		out = append(out, l.String())
	}
	return strings.Join(out, ", ")
}
