package redissession

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/scale/redisconn"
	"github.com/fairlead/fairlead/session"
	"github.com/fairlead/fairlead/session/sessiontest"
)

var (
	single = testenv.Share(func(ctx context.Context) (*testenv.Redis, error) {
		return testenv.StartRedis(ctx, testenv.RedisOptions{})
	})
	cluster = testenv.Share(func(ctx context.Context) (*testenv.RedisCluster, error) {
		return testenv.StartRedisCluster(ctx, testenv.RedisOptions{})
	})
)

func TestMain(m *testing.M) {
	redis.SetLogger(quiet{}) // it reports each refused connection
	os.Exit(testenv.Main(m.Run, single, cluster))
}

type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

// open returns a client that the test closes.
func open(t *testing.T, url string) *redisconn.Client {
	t.Helper()
	rdb, err := redisconn.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

func openSingle(t *testing.T) (*testenv.Redis, *redisconn.Client) {
	t.Helper()
	r, err := single.Get()
	if err != nil {
		t.Fatal(err)
	}
	return r, open(t, r.URL())
}

func openCluster(t *testing.T) *redisconn.Client {
	t.Helper()
	c, err := cluster.Get()
	if err != nil {
		t.Fatal(err)
	}
	return open(t, c.URL())
}

func prefix() string { return "t" + rand.Text() + ":" }

func TestConformance(t *testing.T) {
	_, rdb := openSingle(t)
	sessiontest.Run(t, func(*testing.T) session.Store { return New(rdb, Options{Prefix: prefix()}) })
}

func TestConformanceOnCluster(t *testing.T) {
	rdb := openCluster(t)
	sessiontest.Run(t, func(*testing.T) session.Store { return New(rdb, Options{Prefix: prefix()}) })
}

func TestBadOptions(t *testing.T) {
	_, err := session.New[int](New(nil, Options{Prefix: "a{b"}), session.Options{Idle: -1, Absolute: -2, StoreTimeout: -3, Cookie: "a b"})
	for _, want := range []string{
		"redissession: client is nil", `redissession: Options.Prefix = "a{b"`, "session: Options.Idle = -1ns", "session: Options.Absolute = -2ns",
		"session: Options.StoreTimeout = -3ns", `session: Options.Cookie = "a b"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestSomethingElseUnderTheKey(t *testing.T) {
	_, rdb := openSingle(t)
	s := New(rdb, Options{Prefix: prefix()})
	ctx := t.Context()
	if err := rdb.Redis().Set(ctx, s.key("tag", "id"), "short", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(ctx, "tag", "id"); !errors.Is(err, errDamaged) {
		t.Errorf("Load: %v", err)
	}
}
