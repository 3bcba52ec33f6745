package redisconn_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/scale/breaker"
	"github.com/fairlead/fairlead/scale/redisconn"
)

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited a minute for %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// guards returns the value of a breaker's metric for each server.
func guards(c *redisconn.Client, metric string) map[string]float64 {
	m := map[string]float64{}
	for s := range c.Samples() {
		if s.Name != metric {
			continue
		}
		for _, a := range s.Attrs {
			if a.Key == "host" {
				m[a.Value] += s.Value
			}
		}
	}
	return m
}

func isCutOff(err error) bool {
	_, open := errors.AsType[*breaker.OpenError](err)
	return open && errors.Is(err, redisconn.ErrUnavailable)
}

// A server that is gone is asked no longer, whichever way it went, and asked again once it is back.
func TestAServerThatIsGoneIsCutOff(t *testing.T) {
	for _, how := range []string{"killed", "frozen"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			own, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer own.Close()
			down, up := own.Kill, func() error { return own.Start(t.Context()) }
			if how == "frozen" {
				down, up = own.Freeze, own.Thaw
			}
			c := open(t, own.URL())
			run := func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				return c.Run(ctx, add, []string{"x"}, 1).Err()
			}
			until(t, "the first answer", func() bool { return run() == nil })
			if err := down(); err != nil {
				t.Fatal(err)
			}
			until(t, "the server to be cut off", func() bool {
				err := run()
				if !errors.Is(err, redisconn.ErrUnavailable) {
					t.Fatalf("%v, want ErrUnavailable", err)
				}
				return isCutOff(err)
			})
			// Nothing is sent now, nor waited for: a thousand refusals take no connection and wait for no reply.
			for range 1000 {
				if err := run(); !isCutOff(err) {
					t.Fatalf("%v, want a refusal", err)
				}
			}
			if s := c.Stats(); s.Refused < 1000 || s.Conns > 1 {
				t.Errorf("%+v: want 1000 refusals and no more than the connection from before", s)
			}
			if err := c.Redis().Ping(t.Context()).Err(); !isCutOff(err) {
				t.Errorf("the application's own command: %v, want a refusal", err)
			}
			pipelined := c.Pipeline(t.Context(), func(p redis.Pipeliner) { add.Queue(t.Context(), p, []string{"x"}, 1) })
			if !isCutOff(pipelined) {
				t.Errorf("a pipeline: %v, want a refusal", pipelined)
			}
			if err := up(); err != nil {
				t.Fatal(err)
			}
			until(t, "the server to be asked again", func() bool { return run() == nil })
			if got := guards(c, "fairlead.breaker.state")[own.Addr()]; got != 0 {
				t.Errorf("the breaker's state is %v", got)
			}
		})
	}
}

// Callers with less time than the server needs fail, all of them, and do not cut off those that have time.
func TestSmallBudgetsCutNobodyOff(t *testing.T) {
	p, err := testenv.StartProxy(shared.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := open(t, "redis://"+p.Addr()+"/0")
	if err := c.Run(t.Context(), add, []string{"budget"}, 1).Err(); err != nil {
		t.Fatal(err)
	}
	p.SetDelay(15*time.Millisecond, 15*time.Millisecond)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
				if err := c.Run(ctx, add, []string{"budget"}, 1).Err(); !errors.Is(err, redisconn.ErrUnavailable) || isCutOff(err) {
					t.Errorf("with 10 ms of the 30 it takes: %v", err)
				}
				cancel()
			}
		})
	}
	for range 5 {
		if err := c.Run(t.Context(), add, []string{"budget"}, 1).Err(); err != nil {
			t.Errorf("with time enough: %v", err)
		}
	}
	wg.Wait()
	trips, pings := guards(c, "fairlead.breaker.trips")[p.Addr()], guards(c, "fairlead.breaker.calls")[p.Addr()]
	t.Logf("100 calls ran out of time, %v PINGs were sent for them", pings)
	if trips != 0 || pings == 0 || pings > 100 {
		t.Errorf("%v trips and %v PINGs: want none, and some but at most one a failure", trips, pings)
	}
}

// Of a Cluster, the shard that is dead is cut off and no other.
func TestOnlyTheDeadShardIsCutOff(t *testing.T) {
	cluster, err := testenv.StartRedisCluster(t.Context(), testenv.RedisOptions{Settings: map[string]string{"cluster-require-full-coverage": "no"}})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	c := open(t, cluster.URL())
	run := func(key string) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		return c.Run(ctx, add, []string{key}, 1).Err()
	}
	dead := cluster.Nodes[0]
	direct := redis.NewClient(&redis.Options{Addr: dead.Addr()})
	defer direct.Close()
	var lost, kept []string // keys of the dead shard, keys of the others
	for i := range 30 {
		key := fmt.Sprint("k", i)
		until(t, "the cluster to take "+key, func() bool { return run(key) == nil })
		if err := direct.Get(t.Context(), key).Err(); err == nil {
			lost = append(lost, key)
		} else {
			kept = append(kept, key)
		}
	}
	if len(lost) == 0 || len(kept) == 0 {
		t.Fatalf("%v are on the first node, %v are not", lost, kept)
	}
	if err := dead.Freeze(); err != nil {
		t.Fatal(err)
	}
	until(t, "the shard to be cut off", func() bool { return isCutOff(run(lost[0])) })
	for range 20 {
		for _, key := range lost {
			if err := run(key); !errors.Is(err, redisconn.ErrUnavailable) {
				t.Errorf("%s on the dead shard: %v", key, err)
			}
		}
		for _, key := range kept {
			if err := run(key); err != nil {
				t.Errorf("%s on a living shard: %v", key, err)
			}
		}
		// In one pipeline, too.
		both := []string{lost[0], kept[0]}
		cmds := make([]*redis.Cmd, len(both))
		c.Pipeline(t.Context(), func(p redis.Pipeliner) {
			for i, key := range both {
				cmds[i] = add.Queue(t.Context(), p, []string{key}, 1)
			}
		})
		if !errors.Is(cmds[0].Err(), redisconn.ErrUnavailable) || cmds[1].Err() != nil {
			t.Errorf("pipelined: %v for the dead shard, %v for a living one", cmds[0].Err(), cmds[1].Err())
		}
	}
	state := guards(c, "fairlead.breaker.state")
	trips := guards(c, "fairlead.breaker.trips")
	for _, addr := range cluster.Addrs() {
		if isDead := addr == dead.Addr(); isDead != (trips[addr] > 0) {
			t.Errorf("%s: state %v, %v trips; dead: %v", addr, state[addr], trips[addr], isDead)
		}
	}
	if err := dead.Thaw(); err != nil {
		t.Fatal(err)
	}
	for _, key := range slices.Concat(lost, kept) {
		until(t, key+" to be served again", func() bool { return run(key) == nil })
	}
}

// An application that closes the Client gets its own client back as it was.
func TestCloseTakesTheGuardAway(t *testing.T) {
	own, err := testenv.StartRedis(t.Context(), testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	mine := redis.NewClient(&redis.Options{Addr: own.Addr(), ContextTimeoutEnabled: true, MaxRetries: -1, DialerRetries: 1})
	defer mine.Close()
	c, err := redisconn.New(mine)
	if err != nil {
		t.Fatal(err)
	}
	if err := own.Kill(); err != nil {
		t.Fatal(err)
	}
	until(t, "the server to be cut off", func() bool { return isCutOff(mine.Ping(t.Context()).Err()) })
	c.Close()
	if err := mine.Ping(t.Context()).Err(); err == nil || isCutOff(err) {
		t.Errorf("after Close: %v, want go-redis's own error", err)
	}
	if err := own.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := mine.Ping(t.Context()).Err(); err != nil {
		t.Errorf("after Close and the restart: %v", err)
	}
}
