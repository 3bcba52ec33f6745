package redissession

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// Evictions returns how many keys, of whatever application, the servers have dropped since their start because maxmemory was
// reached. A session among them has logged its user out. The session manager asks once a minute and shows the number in its
// Stats.
func (s *Store) Evictions(ctx context.Context) (uint64, error) {
	var total atomic.Uint64
	count := func(ctx context.Context, node *redis.Client) error {
		info, err := node.Info(ctx, "stats").Result()
		if err != nil {
			return err
		}
		n := uint64(0)
		if _, line, ok := strings.Cut(info, "evicted_keys:"); ok {
			fmt.Sscan(line, &n)
		}
		total.Add(n)
		return nil
	}
	var err error
	switch c := s.rdb.Redis().(type) {
	case *redis.Client:
		err = count(ctx, c)
	case *redis.ClusterClient:
		err = c.ForEachMaster(ctx, count)
	}
	if err != nil {
		return 0, fmt.Errorf("redissession: %w", err)
	}
	return total.Load(), nil
}
