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
	child()
	os.Exit(Main(m.Run, sharedPostgres, sharedRedis))
}

// eventually polls until check returns an empty string, which otherwise says what
// is still missing.
func eventually(t *testing.T, check func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		missing := check()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("never: " + missing)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
