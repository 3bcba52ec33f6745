package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func startRedis(t *testing.T, settings map[string]string) *Redis {
	t.Helper()
	r, err := StartRedis(t.Context(), RedisOptions{Settings: settings})
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return r
}

func TestRedisKillAndStart(t *testing.T) {
	for setting, want := range map[string]error{"no": redis.Nil, "yes": nil} {
		t.Run("appendonly "+setting, func(t *testing.T) {
			r := startRedis(t, map[string]string{"appendonly": setting, "appendfsync": "always"})
			must(t, r.client.Set(t.Context(), "k", "v", 0).Err())
			must(t, r.Kill())
			if conn, err := net.Dial("tcp", r.Addr()); err == nil {
				conn.Close()
				t.Error("a killed server accepts connections")
			}
			must(t, r.Kill()) // nothing to kill
			must(t, r.Start(t.Context()))
			if err := r.client.Get(t.Context(), "k").Err(); !errors.Is(err, want) {
				t.Errorf("get: %v, want %v", err, want)
			}
			if err := r.Start(t.Context()); err == nil {
				t.Error("a running server was started again")
			}
		})
	}
}

func TestRedisFreezeAndThaw(t *testing.T) {
	r := startRedis(t, nil)
	must(t, r.client.Ping(t.Context()).Err())
	must(t, r.Freeze())
	if pid := r.cmd.Process.Pid; !stopped(pid) {
		t.Error("the process is not stopped")
	}
	conn, err := net.Dial("tcp", r.Addr())
	must(t, err) // the kernel accepts
	defer conn.Close()
	answer := make(chan error)
	go func() { answer <- r.client.Set(context.Background(), "k", "v", 0).Err() }()
	select {
	case err := <-answer:
		t.Errorf("a frozen server answered: %v", err)
	case <-time.After(50 * time.Millisecond): // proves little, but costs little
	}
	must(t, r.Thaw())
	must(t, <-answer)

	must(t, r.Freeze())
	must(t, r.Kill())
	if err := r.Thaw(); err == nil {
		t.Error("a killed server thawed")
	}
	must(t, r.Start(t.Context()))
}

func TestRedisSettings(t *testing.T) {
	r := startRedis(t, map[string]string{"maxmemory": "10mb", "save": "3600 1 300 100", "notify-keyspace-events": "Kx"})
	for name, want := range map[string]string{"maxmemory": "10485760", "save": "3600 1 300 100", "notify-keyspace-events": "xK", "appendonly": "no"} {
		got, err := r.client.ConfigGet(t.Context(), name).Result()
		must(t, err)
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
	_, err := StartRedis(t.Context(), RedisOptions{Settings: map[string]string{"maxmemory": "plenty"}})
	if err == nil || !strings.Contains(err.Error(), "maxmemory") {
		t.Errorf("a bad setting: %v, want what Redis says about it", err)
	}
}

func TestRedisCalls(t *testing.T) {
	r, err := sharedRedis.Get()
	must(t, err)
	ctx := t.Context()
	must(t, r.ResetCounts(ctx))
	for range 3 {
		must(t, r.client.Set(ctx, "calls", 1, 0).Err())
	}
	for command, want := range map[string]int64{"set": 3, "getset": 0} {
		got, err := r.Calls(ctx, command)
		must(t, err)
		if got != want {
			t.Errorf("%d calls of %s, want %d", got, command, want)
		}
	}
}

func TestRedisAfterClose(t *testing.T) {
	r := startRedis(t, nil)
	must(t, r.Close())
	for what, err := range map[string]error{"Start": r.Start(t.Context()), "Freeze": r.Freeze(), "Thaw": r.Thaw()} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
	if _, err := os.Stat(r.dir); !os.IsNotExist(err) {
		t.Errorf("a directory is left (%v)", err)
	}
}

func TestRedisCluster(t *testing.T) {
	t.Parallel() // it mostly waits
	ctx := t.Context()
	c, err := StartRedisCluster(ctx, RedisOptions{Settings: map[string]string{"cluster-node-timeout": "3000"}})
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	options, err := redis.ParseClusterURL(c.URL())
	must(t, err)
	client := redis.NewClusterClient(options)
	defer client.Close()
	for i := range 100 {
		must(t, client.Set(ctx, fmt.Sprint("key", i), i, 0).Err())
	}
	total := int64(0)
	for _, r := range c.Nodes {
		n, err := r.client.DBSize(ctx).Result()
		must(t, err)
		if n == 0 {
			t.Errorf("%s has no keys", r.name)
		}
		total += n
	}
	if total != 100 || len(c.Addrs()) != 3 {
		t.Errorf("%d keys on %d nodes, want 100 on 3", total, len(c.Addrs()))
	}

	state := func(r *Redis, want string) {
		t.Helper()
		eventually(t, func() string {
			info, err := r.client.ClusterInfo(ctx).Result()
			if err != nil || !strings.Contains(info, "cluster_state:"+want) {
				return fmt.Sprintf("%s %s: %q, %v", r.name, want, info, err)
			}
			return ""
		})
	}
	must(t, c.Nodes[1].Kill())
	state(c.Nodes[0], "fail")
	must(t, c.Nodes[1].Start(ctx))
	for _, r := range c.Nodes {
		state(r, "ok")
	}
	for i := range 100 { // those of the killed node are gone, and can be set again
		must(t, client.Set(ctx, fmt.Sprint("key", i), i, 0).Err())
	}
}
