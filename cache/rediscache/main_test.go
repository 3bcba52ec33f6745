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

func TestMain(m *testing.M) {
	logging.Disable() // go-redis reports each failed dial
	os.Exit(testenv.Main(m.Run, server))
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

func TestConformance(t *testing.T) {
	url := redisServer(t).URL()
	cachetest.Run(t, func(t *testing.T) cache.Remote { return rediscache.New(open(t, url)) })
}

func TestConformanceCluster(t *testing.T) {
	cluster, err := testenv.StartRedisCluster(t.Context(), testenv.RedisOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Close() })
	cachetest.Run(t, func(t *testing.T) cache.Remote { return rediscache.New(open(t, cluster.URL())) })
}
