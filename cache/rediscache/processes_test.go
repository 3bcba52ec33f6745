package rediscache_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/cache/rediscache"
	"github.com/fairlead/fairlead/pool/causal"
	"github.com/fairlead/fairlead/scale/redisconn"
)

// childEnv, set, makes the test binary a process with a cache of its own, which does what it is told on standard input.
const childEnv = "REDISCACHE_TEST_CHILD"

type spec struct{ Name, URL, Bus string }

type order struct {
	ID    int
	Op    string // get, write, stats
	Key   int
	Token string // of a reader
}

type answer struct {
	ID    int
	Value int
	Token string // of a writer
	Error string
	Stats cache.Stats
}

// redisOrigin keeps the versions of keys, and counts its loads, in Redis itself, where all processes see them.
type redisOrigin struct {
	name   string
	client redis.UniversalClient
}

func (o redisOrigin) of(what string, key int) string {
	return fmt.Sprintf("origin:%s:%s:%d", o.name, what, key)
}

func (o redisOrigin) load(ctx context.Context, key int) (int, error) {
	if err := o.client.Incr(ctx, o.of("loads", key)).Err(); err != nil {
		return 0, err
	}
	v, err := o.client.Get(ctx, o.of("version", key)).Int()
	if err == redis.Nil {
		return 0, nil
	}
	return v, err
}

func (o redisOrigin) write(ctx context.Context, key int) (int, error) {
	v, err := o.client.Incr(ctx, o.of("version", key)).Result()
	return int(v), err
}

// child is the process.
func child(text string) int {
	logging.Disable()
	var s spec
	err := json.Unmarshal([]byte(text), &s)
	clients := make([]*redisconn.Client, 2)
	for i, url := range []string{s.URL, s.Bus} {
		if err == nil {
			clients[i], err = redisconn.Open(url)
		}
	}
	var c *cache.Cache[int, int]
	var origin redisOrigin
	if err == nil {
		origin = redisOrigin{s.Name, clients[0].Redis()}
		remote := twoWays{rediscache.New(clients[0]), rediscache.New(clients[1])}
		c, err = cache.New(s.Name, origin.load, cache.Options[int, int]{Remote: remote, RemoteTimeout: backstop, TTL: time.Hour, Logger: quiet})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		go func() {
			a := obey(c, origin, o)
			mu.Lock()
			defer mu.Unlock()
			out.Encode(a)
		}()
	}
	return 0
}

func obey(c *cache.Cache[int, int], origin redisOrigin, o order) (a answer) {
	ctx, _ := causal.Begin(context.Background())
	var err error
	switch o.Op {
	case "get":
		if o.Token != "" {
			ctx, err = causal.AtLeast(ctx, o.Token)
		}
		if err == nil {
			a.Value, err = c.Get(ctx, o.Key)
		}
	case "write":
		if a.Value, err = origin.write(ctx, o.Key); err == nil {
			err = c.Invalidate(ctx, o.Key)
		}
		if err == nil {
			a.Token, err = causal.Token(ctx)
		}
	case "stats":
		a.Stats = c.Stats()
	}
	if err != nil {
		a.Error = err.Error()
	}
	a.ID = o.ID
	return a
}

// process is a child from outside.
type process struct {
	t  *testing.T
	in io.Writer

	mu      sync.Mutex
	next    int
	waiting map[int]chan answer
}

func startProcess(t *testing.T, s spec) *process {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	// The race detector would have each process linger for a second.
	cmd.Env = append(os.Environ(), childEnv+"="+string(text), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, in: in, waiting: make(map[int]chan answer)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for d := json.NewDecoder(out); ; {
			var a answer
			if d.Decode(&a) != nil {
				return
			}
			p.mu.Lock()
			p.waiting[a.ID] <- a
			delete(p.waiting, a.ID)
			p.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		in.Close() // ends it
		<-read
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the process hears invalidations", func() bool { return p.do(order{Op: "stats"}).Stats.Connected })
	return p
}

func (p *process) do(o order) answer {
	got := make(chan answer, 1)
	p.mu.Lock()
	p.next++
	o.ID = p.next
	p.waiting[o.ID] = got
	line, _ := json.Marshal(o)
	_, err := p.in.Write(append(line, '\n'))
	p.mu.Unlock()
	if err != nil {
		p.t.Error(err)
		return answer{}
	}
	select {
	case a := <-got:
		if a.Error != "" {
			p.t.Errorf("%+v: %s", o, a.Error)
		}
		return a
	case <-time.After(backstop):
		p.t.Errorf("%+v: no answer", o)
		return answer{}
	}
}

// Who wrote reads it on another process whose messages are late; others do not, and keep reading memory.
func TestOwnWritesOverProcesses(t *testing.T) { ownWritesOverProcesses(t, 2000) }

func ownWritesOverProcesses(t *testing.T, pairs int) {
	const keys = 100
	server, name := redisServer(t), unique()
	p, busURL := proxied(t, server)
	origin := redisOrigin{name, open(t, server.URL()).Redis()}
	writer := node(t, name, server.URL(), origin.load, cache.Options[int, int]{TTL: time.Hour})
	reader := startProcess(t, spec{name, server.URL(), busURL})
	connected(t, writer)
	p.SetDelay(0, 500*time.Millisecond)
	stale, others := 0, uint64(0)
	for i := range pairs {
		key := i % keys
		reader.do(order{Op: "get", Key: key})
		version, err := origin.write(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		ctx, _ := causal.Begin(t.Context())
		if err := writer.Invalidate(ctx, key); err != nil {
			t.Fatal(err)
		}
		token, err := causal.Token(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got := reader.do(order{Op: "get", Key: key}).Value; got != version {
			stale++
		}
		if got := reader.do(order{Op: "get", Key: key, Token: token}).Value; got != version {
			t.Fatalf("the writer's next request reads version %d of %d", got, version)
		}
		others += 2
	}
	s := reader.do(order{Op: "stats"}).Stats
	t.Logf("without the token %d of %d reads were stale; with it none, and %d of them passed memory by", stale, pairs, s.OwnWrites)
	if stale < pairs/10 {
		t.Errorf("without the token only %d of %d reads were stale: this test tests nothing", stale, pairs)
	}
	if s.OwnWrites == 0 || s.OwnWrites > uint64(pairs) {
		t.Errorf("%d reads passed memory by, want some of the writer's %d", s.OwnWrites, pairs)
	}
	if s.Gets != others+uint64(pairs) {
		t.Errorf("%d gets counted, want %d", s.Gets, others+uint64(pairs))
	}
	// Of others none does, though the bus is as late as before.
	ctx, _ := causal.Begin(t.Context())
	if err := writer.Invalidate(ctx, keys+1); err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		reader.do(order{Op: "get", Key: i % keys})
	}
	if n := reader.do(order{Op: "stats"}).Stats.OwnWrites; n != s.OwnWrites {
		t.Errorf("%d reads of others passed memory by", n-s.OwnWrites)
	}
}

// Sixteen processes: a cold key costs the origin one call over all of them, and so does one that was invalidated; who carries the
// writer's token sees what was written, on each.
func TestSixteenProcesses(t *testing.T) { sixteenProcesses(t, 50) }

func sixteenProcesses(t *testing.T, rounds int) {
	server, name := redisServer(t), unique()
	client := open(t, server.URL()).Redis()
	origin := redisOrigin{name, client}
	processes := make([]*process, 16)
	var starting sync.WaitGroup
	for i := range processes {
		starting.Go(func() { processes[i] = startProcess(t, spec{name, server.URL(), server.URL()}) })
	}
	starting.Wait()
	if t.Failed() {
		return
	}
	all := func(o order, is func(i, value int) bool) {
		var wg sync.WaitGroup
		for i, p := range processes {
			wg.Go(func() {
				if got := p.do(o).Value; !is(i, got) {
					t.Errorf("process %d, %+v: got version %d", i, o, got)
				}
			})
		}
		wg.Wait()
	}
	loads := func(key, want int) {
		t.Helper()
		if n, err := client.Get(t.Context(), origin.of("loads", key)).Int(); err != nil || n != want {
			t.Errorf("key %d was loaded %d times, want %d (%v)", key, n, want, err)
		}
	}
	for round := 0; round < rounds && !t.Failed(); round++ {
		cold, hot := 1000+round, round%3
		all(order{Op: "get", Key: cold}, func(_, v int) bool { return v == 0 })
		loads(cold, 1)
		written := processes[round%16].do(order{Op: "write", Key: cold})
		all(order{Op: "get", Key: cold, Token: written.Token}, func(_, v int) bool { return v == 1 })
		loads(cold, 2)

		// Two write the same key while all read it with the token of the write before.
		before := processes[(round+1)%16].do(order{Op: "write", Key: hot})
		var wg sync.WaitGroup
		for _, i := range []int{(round + 2) % 16, (round + 3) % 16} {
			wg.Go(func() { processes[i].do(order{Op: "write", Key: hot}) })
		}
		all(order{Op: "get", Key: hot, Token: before.Token}, func(_, v int) bool {
			return v >= before.Value && v <= before.Value+2
		})
		wg.Wait()
	}
}
