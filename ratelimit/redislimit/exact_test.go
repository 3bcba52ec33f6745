package redislimit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/ratelimit"
	"github.com/fairlead/fairlead/scale/redisconn"
)

// The limit of the tests below: two seconds' worth at once, so that a machine that stalls for less than that loses nothing.
const (
	exactRate  = 200
	exactBurst = 400
)

func exactLimit() ratelimit.Limit { return ratelimit.PerSecond(exactRate).Burst(exactBurst) }

func redisTime(t testing.TB, c *redisconn.Client) time.Time {
	t.Helper()
	now, err := c.Redis().Time(t.Context()).Result()
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func mostIn(d time.Duration) int64 {
	return exactBurst + int64(d/time.Microsecond)*exactRate/1_000_000
}

// TestAnyWindowHoldsTheBound looks at all windows, not only the whole: the script's own time of every grant is read back from
// the state it leaves.
func TestAnyWindowHoldsTheBound(t *testing.T) {
	ctx := t.Context()
	c := connect(t, server(t).URL())
	limit := ratelimit.PerSecond(700).Burst(20) // a permit in 1428.57 µs
	store := New(c)
	ask := ratelimit.Ask{Name: t.Name(), Key: "k", Cost: 1, Rules: limit.Rules()}
	read := redis.NewScript(`
		local state = redis.call('GET', KEYS[1])
		return state and string.format('%.0f', (struct.unpack('<d', state)))`)
	var at []int64
	for begin := time.Now(); time.Since(begin) < 1500*time.Millisecond || len(at) < 20 && time.Since(begin) < time.Minute; {
		d, err := store.Take(ctx, ask)
		if err != nil {
			t.Fatal(err)
		}
		if !d.Allowed {
			continue
		}
		text, err := read.Run(ctx, c.Redis(), []string{redisKey(ask.Name, ask.Key)}).Text()
		if errors.Is(err, redis.Nil) {
			continue // all 20 permits came back before this was asked, and the state expired
		}
		if err != nil {
			t.Fatal(err)
		}
		us, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, us)
	}
	for i := range at {
		for j := i; j < len(at); j++ {
			if n, most := int64(j-i+1), 20+(at[j]-at[i])*700/1_000_000; n > most {
				t.Fatalf("grants %d to %d, %d µs apart, are %d: want at most %d", i, j, at[j]-at[i], n, most)
			}
		}
	}
	if len(at) < 20 {
		t.Errorf("only %d grants", len(at))
	}
}

// A reply that got lost was a permit taken and not given: retries can only admit less.
func TestLostRepliesOnlyAdmitLess(t *testing.T) {
	ctx := t.Context()
	r := server(t)
	p, err := testenv.StartProxy(r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	direct := connect(t, r.URL())
	l := limiter(t, connect(t, "redis://"+p.Addr()+"/0"), exactLimit())
	if _, err := l.Take(ctx, "warm up", 1); err != nil {
		t.Fatal(err)
	}
	begin := redisTime(t, direct)
	var n, lost, dropped int64
	// Until replies were lost and the bucket gives no more than its rate: before that any number would be within the bound.
	const least = exactBurst + exactRate
	for backstop := time.Now().Add(time.Minute); (lost < 10 || n < least) && time.Now().Before(backstop); {
		if lost < 20 {
			p.LoseReplies(1, "evalsha")
		}
		d, err := l.Take(ctx, "k", 1)
		if now := p.Stats().Dropped; now > dropped {
			dropped = now
			lost++
		}
		if err == nil && d.Allowed {
			n++
		}
		if err == nil && !d.Allowed {
			time.Sleep(d.RetryAfter)
		}
	}
	took := redisTime(t, direct).Sub(begin)
	if lost < 10 {
		t.Fatalf("the proxy lost %d replies: want at least 10", lost)
	}
	if most := mostIn(took) - 10; n > most {
		t.Errorf("granted %d in %v while %d replies were lost: want at most %d", n, took, lost, most)
	}
	if n < least {
		t.Errorf("granted %d in %v: want at least %d", n, took, least)
	}
}

// Clocks of the processes do not matter since no script receives one: there is no argument that depends on time.
func TestNoClockIsSent(t *testing.T) {
	c := connect(t, server(t).URL())
	var sent recorder
	c.Redis().AddHook(&sent)
	store := New(c)
	ask := ratelimit.Ask{Name: t.Name(), Key: "k", Cost: 1, Rules: exactLimit().Rules()}
	for range 2 {
		if _, err := store.Take(t.Context(), ask); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	if n := len(sent.scripts); n < 2 || sent.scripts[n-1] != sent.scripts[n-2] {
		t.Errorf("the same question at two times was sent as %q", sent.scripts)
	}
}

// recorder keeps the scripts that a client runs.
type recorder struct{ scripts []string }

func (r *recorder) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *recorder) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "evalsha" {
			r.scripts = append(r.scripts, fmt.Sprint(cmd.Args()...))
		}
		return next(ctx, cmd)
	}
}

func (r *recorder) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}
