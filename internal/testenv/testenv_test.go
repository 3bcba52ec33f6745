package testenv

import (
	"context"
	"os"
	"testing"
	"time"
)

var (
	sharedPostgres = Share(func(ctx context.Context) (*Postgres, error) {
		return StartPostgres(ctx, PostgresOptions{Replicas: 2})
	})
	sharedRedis = Share(func(ctx context.Context) (*Redis, error) {
		return StartRedis(ctx, RedisOptions{})
	})
)

func TestMain(m *testing.M) {
	os.Exit(Main(m.Run, sharedPostgres, sharedRedis))
}

func TestBegin(t *testing.T) {
	a := time.Now()
	pg, err := sharedPostgres.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Log(time.Since(a))
	a = time.Now()
	t.Log(pg.CreateDatabase(t.Context()))
	t.Log(time.Since(a))
	a = time.Now()
	r, err := sharedRedis.Get()
	t.Log(time.Since(a), err, r.URL())
	a = time.Now()
	c, err := StartRedisCluster(t.Context(), RedisOptions{})
	t.Log(time.Since(a), err)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(c.URL())
	a = time.Now()
	t.Log(c.Close())
	t.Log(time.Since(a))
}
