package rediscache_test

import (
	"context"
	"os"
	"testing"

	"github.com/redis/go-redis/v9/logging"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/cache/cachetest"
	"github.com/fairlead/fairlead/cache/rediscache"
	"github.com/fairlead/fairlead/internal/testenv"
	"github.com/fairlead/fairlead/scale/redisconn"
)

var server = testenv.Share(func(ctx context.Context) (*testenv.Redis, error) {
	return testenv.StartRedis(ctx, testenv.RedisOptions{})
})

var cluster = testenv.Share(func(ctx context.Context) (*testenv.RedisCluster, error) {
	return testenv.StartRedisCluster(ctx, testenv.RedisOptions{})
})

func TestMain(m *testing.M) {
	logging.Disable() // go-redis reports each failed dial
	if spec := os.Getenv(childEnv); spec != "" {
		os.Exit(child(spec))
	}
	os.Exit(testenv.Main(m.Run, server, cluster))
}

func redisServer(t *testing.T) *testenv.Redis {
	t.Helper()
	r, err := server.Get()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// open returns a client as another process would have it.
func open(t *testing.T, url string) *redisconn.Client {
	t.Helper()
	c, err := redisconn.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func redisCluster(t *testing.T) *testenv.RedisCluster {
	t.Helper()
	c, err := cluster.Get()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// onEach runs a test on a single server and on a Cluster of three.
func onEach(t *testing.T, test func(t *testing.T, url string)) {
	t.Run("single", func(t *testing.T) { test(t, redisServer(t).URL()) })
	t.Run("cluster", func(t *testing.T) { test(t, redisCluster(t).URL()) })
}

func TestConformance(t *testing.T) {
	onEach(t, func(t *testing.T, url string) {
		cachetest.Run(t, func(t *testing.T) cache.Remote { return rediscache.New(open(t, url)) })
	})
}
