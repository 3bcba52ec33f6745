package cache_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/pool/causal"
)

// A database that never tells the position of a write holds nothing up for longer than a second; it counts as unknown.
func TestStuckPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const db = "db1"
		var demandsPrimary, stuck bool
		load := func(ctx context.Context, key int) (int, error) {
			d := causal.From(ctx).Domain(db)
			_, settled := d.Bound()
			demandsPrimary = !settled
			if stuck {
				d.Pending()
			}
			return key, nil
		}
		store := newFakeStore()
		many := func(ctx context.Context, keys []int) (map[int]int, error) {
			values := make(map[int]int)
			for _, k := range keys {
				values[k], _ = load(ctx, k)
			}
			return values, nil
		}
		c := open(t, load, cache.Options[int, int]{Remote: store.node(), RemoteTimeout: time.Minute, LoadMany: many})
		synctest.Wait()
		within := func(what string, limit time.Duration, do func()) {
			t.Helper()
			start := time.Now()
			do()
			if took := time.Since(start); took > limit {
				t.Errorf("%s took %v", what, took)
			}
		}
		ctx, scope := causal.Begin(t.Context())
		scope.Domain(db).Pending()
		within("Invalidate", time.Second, func() {
			if err := c.Invalidate(ctx, 1); err != nil {
				t.Error(err)
			}
		})
		scope.Domain("cache:test").Wrote("99999999.0000000000000000") // further than was heard
		within("Get", time.Second, func() {
			got, err := c.Get(ctx, 1)
			want(t, got, err, 1)
		})
		if !demandsPrimary {
			t.Error("the load did not demand the primary")
		}
		within("GetMany", time.Second, func() {
			keys := make([]int, 50)
			for i := range keys {
				keys[i] = i
			}
			got, err := c.GetMany(ctx, keys)
			if err != nil || len(got) != len(keys) || !demandsPrimary {
				t.Errorf("%d values, %v; demanding the primary: %v", len(got), err, demandsPrimary)
			}
		})

		stuck = true
		reader, seen := causal.Begin(t.Context())
		within("a load that writes", time.Second, func() {
			got, err := c.Get(reader, 60)
			want(t, got, err, 60)
		})
		if _, settled := seen.Domain(db).Bound(); settled {
			t.Error("the reader of a load that wrote may read replicas")
		}
	})
}
