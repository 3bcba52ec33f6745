package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/fairlead/fairlead/examples/storefront/catalog"
	"github.com/fairlead/fairlead/internal/testenv"
)

// servers are those that the demo brings, and the variables that tell the storefront where they are.
type servers struct {
	postgres *testenv.Postgres
	redis    *testenv.Redis
	env      []string
}

// startServers starts what no variable names, with n products in it. Also after an error the servers must be closed.
func startServers(ctx context.Context, n int) (*servers, error) {
	s := &servers{}
	redis := make(chan error, 1)
	go func() { redis <- s.startRedis(ctx) }()
	err := s.startPostgres(ctx, n)
	err = errors.Join(err, <-redis)
	if err != nil {
		return s, err
	}
	if s.redis != nil {
		s.env = append(s.env, "REDIS_URL="+s.redis.URL())
	}
	return s, nil
}

func (s *servers) startRedis(ctx context.Context) (err error) {
	if os.Getenv("REDIS_URL") == "" {
		s.redis, err = testenv.StartRedis(ctx, testenv.RedisOptions{Settings: map[string]string{"maxmemory-policy": "noeviction"}})
	}
	return err
}

func (s *servers) startPostgres(ctx context.Context, n int) (err error) {
	if os.Getenv("DATABASE_URL") != "" {
		return nil
	}
	fmt.Fprint(os.Stderr, "demo: starting PostgreSQL (a primary, two replicas) and Redis ")
	began := time.Now()
	s.postgres, err = testenv.StartPostgres(ctx, testenv.PostgresOptions{Replicas: 2})
	if err != nil {
		fmt.Fprintln(os.Stderr)
		return err
	}
	fmt.Fprintf(os.Stderr, "in %.1f s\n", time.Since(began).Seconds())
	name, err := s.postgres.CreateDatabase(ctx)
	if err != nil {
		return err
	}
	url := s.postgres.Primary.URL(name)
	if err := catalog.Load(ctx, url, n, catalog.ProgressLine(os.Stderr, n)); err != nil {
		return err
	}
	var replicas []string
	for _, r := range s.postgres.Replicas {
		if err := r.WaitReplayed(ctx); err != nil {
			return err
		}
		replicas = append(replicas, r.URL(name))
	}
	s.env = append(s.env, "DATABASE_URL="+url, "DATABASE_REPLICA_URLS="+strings.Join(replicas, ","))
	return nil
}

func (s *servers) close() {
	if s.postgres != nil {
		_ = s.postgres.Close()
	}
	if s.redis != nil {
		_ = s.redis.Close()
	}
}
