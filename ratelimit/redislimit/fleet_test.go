package redislimit

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/ratelimit"
	"github.com/fairlead/fairlead/scale/redisconn"
)

// role is what a process of these tests does until its standard input ends.
type role struct {
	URL, Name string
	Skew      time.Duration // of its clock
	Lease     time.Duration
	Hold      time.Duration // not 0: take one permit in flight, for as long, and keep it
}

const roleEnv = "REDISLIMIT_TEST_ROLE"

// play is such a process. It prints a line for each permit.
func play(text string) int {
	var r role
	fail := func(err error) int { fmt.Fprintln(os.Stderr, err); return 1 }
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return fail(err)
	}
	c, err := redisconn.Open(r.URL)
	if err != nil {
		return fail(err)
	}
	limit := exactLimit()
	if r.Hold > 0 {
		limit = ratelimit.InFlight(3, r.Hold)
	}
	store := &Store{client: c, skew: r.Skew}
	l, err := ratelimit.New(r.Name, limit, ratelimit.Options{Store: store, OnError: ratelimit.Deny, Timeout: time.Minute, Lease: r.Lease})
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		os.Stdin.Read(make([]byte, 1))
		cancel()
	}()
	for ctx.Err() == nil {
		d, err := l.Take(ctx, "k", 1)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			return fail(err)
		case d.Allowed:
			fmt.Println("granted")
			if r.Hold > 0 {
				<-ctx.Done()
			}
		default:
			time.Sleep(min(d.RetryAfter, 5*time.Millisecond))
		}
	}
	return 0
}

type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
}

func start(t *testing.T, r role) *process {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.CommandContext(t.Context(), os.Args[0])}
	p.cmd.Env = append(os.Environ(), roleEnv+"="+string(text), "GORACE=atexit_sleep_ms=0")
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewScanner(out)
	return p
}

// fleet runs eight processes with clocks of their own against one limit, kills two on the way and starts another in their place,
// for at least d of Redis's clock and until enough has been used. It returns what was granted, in how long.
func fleet(t *testing.T, url string, d, lease time.Duration, enough func(n int64, took time.Duration) bool) (int64, time.Duration) {
	c := connect(t, url)
	name := limiterName(t)
	begin := redisTime(t, c)
	var granted atomic.Int64
	var wg sync.WaitGroup
	stop := make(chan struct{})
	run := func(i int) {
		p := start(t, role{URL: url, Name: name, Skew: time.Duration(i-4) * 36 * time.Hour, Lease: lease})
		wg.Go(func() {
			// What a killed process was granted and did not write counts for less, never for more.
			for n := 1; p.lines.Scan(); n++ {
				granted.Add(1)
				if i < 2 && n == 40 {
					p.cmd.Process.Kill()
				}
			}
			p.cmd.Wait()
		})
		wg.Go(func() {
			<-stop
			p.stdin.Close()
		})
	}
	for i := range 8 {
		run(i)
	}
	run(8)
	for backstop := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		took := redisTime(t, c).Sub(begin)
		n := granted.Load()
		if took >= d && enough(n, took) {
			break
		}
		if time.Now().After(backstop) {
			t.Errorf("granted %d in %v, of %d that were to be had", n, took, mostIn(took))
			break
		}
	}
	close(stop)
	wg.Wait()
	return granted.Load(), redisTime(t, c).Sub(begin)
}

// nearlyAll is 98 % of the limit. The bucket keeps two seconds' worth, so a machine that stalls for less loses nothing, and may catch
// up with what it could not do at once.
func nearlyAll(n int64, took time.Duration) bool { return n*100 >= mostIn(took)*98 }

func exactFleet(t *testing.T, d time.Duration) {
	n, took := fleet(t, server(t).URL(), d, 0, nearlyAll)
	t.Logf("soak: eight processes and one limit, exact: %d permits of %d in %v", n, mostIn(took), took.Round(time.Millisecond))
	if most := mostIn(took); n > most {
		t.Errorf("granted %d in %v: want at most %d", n, took, most)
	}
}

func leasedFleet(t *testing.T, d time.Duration) {
	r, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const lease = 250 * time.Millisecond
	// What a stalled process does not use of a lease is lost, so how much of the limit is used is left to chance.
	n, took := fleet(t, r.URL(), d, lease, func(n int64, _ time.Duration) bool { return n >= exactBurst+exactRate })
	trips, err := r.Calls(t.Context(), "evalsha")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("soak: eight processes and one limit, leased: %d permits of %d in %v by %d scripts", n, mostIn(took), took.Round(time.Millisecond), trips)
	if most := mostIn(took + lease); n > most {
		t.Errorf("granted %d in %v: want at most %d", n, took, most)
	}
}

func TestEightProcessesHoldOneLimit(t *testing.T) {
	t.Run("exact", func(t *testing.T) { exactFleet(t, 2*time.Second) })
	t.Run("leased", func(t *testing.T) { leasedFleet(t, time.Second) })
}

// Of a process that needs much, Redis is asked for few of the requests.
func TestLeasedTripsAsTheServerCountsThem(t *testing.T) {
	ctx := t.Context()
	r, err := testenv.StartRedis(ctx, testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	l := limiter(t, connect(t, r.URL()), ratelimit.PerSecond(1_000_000), func(o *ratelimit.Options) { o.Lease = 250 * time.Millisecond })
	if _, err := l.Take(ctx, "k", 1); err != nil {
		t.Fatal(err)
	}
	if err := r.ResetCounts(ctx); err != nil {
		t.Fatal(err)
	}
	n := int64(0)
	for begin := time.Now(); time.Since(begin) < time.Second || n < 5000; n++ {
		if d, err := l.Take(ctx, "k", 1); err != nil || !d.Allowed {
			t.Fatalf("got %+v, %v", d, err)
		}
	}
	trips, err := r.Calls(ctx, "evalsha")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d requests, %d scripts", n, trips)
	if trips*20 > n {
		t.Errorf("%d scripts for %d requests: want at most one in 20", trips, n)
	}
}

// Processes that are killed with permits in their hands hold them until their time is over, and no longer.
func TestInFlightOverProcessesThatAreKilled(t *testing.T) {
	c := connect(t, server(t).URL())
	const ttl = 1500 * time.Millisecond
	begin := redisTime(t, c)
	name := limiterName(t)
	var holders []*process
	for i := range 3 {
		p := start(t, role{URL: server(t).URL(), Name: name, Hold: ttl, Skew: time.Duration(i) * time.Hour})
		if !p.lines.Scan() {
			t.Fatal("a process holds nothing")
		}
		holders = append(holders, p)
	}
	for _, p := range holders {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
	l := limiter(t, c, ratelimit.InFlight(3, ttl))
	until(t, "the permits of the dead", func() bool {
		d, err := l.Take(t.Context(), "k", 3)
		if err != nil {
			t.Fatal(err)
		}
		if took := redisTime(t, c).Sub(begin); d.Allowed && took < ttl {
			t.Errorf("granted %v after they were taken for %v", took, ttl)
		}
		return d.Allowed
	})
}

// A reply that got lost, and is asked for again, holds its permits in flight once.
func TestLostRepliesHoldOnce(t *testing.T) {
	ctx := t.Context()
	p, err := testenv.StartProxy(server(t).Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	l := limiter(t, connect(t, "redis://"+p.Addr()+"/0"), ratelimit.InFlight(2, time.Hour))
	if d, err := l.Take(ctx, "warm up", 1); err != nil || !d.Allowed {
		t.Fatalf("got %+v, %v", d, err)
	}
	p.LoseReplies(1, "evalsha")
	one, err := l.Take(ctx, "k", 1)
	if lost := p.Stats().Dropped; err != nil || !one.Allowed || lost == 0 {
		t.Fatalf("got %+v, %v, with %d bytes lost", one, err, lost)
	}
	if d, err := l.Take(ctx, "k", 1); err != nil || !d.Allowed || d.Remaining != 0 {
		t.Errorf("the second of 2: got %+v, %v", d, err)
	}
	if d, err := l.Take(ctx, "k", 1); err != nil || d.Allowed {
		t.Errorf("the third of 2: got %+v, %v", d, err)
	}
	if err := l.Return(ctx, "k", one); err != nil {
		t.Fatal(err)
	}
	if d, err := l.Take(ctx, "k", 1); err != nil || !d.Allowed {
		t.Errorf("after one was given back: got %+v, %v", d, err)
	}
}
