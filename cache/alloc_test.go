//go:build !race

package cache_test

import (
	"context"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/pool/causal"
)

// A hit in memory allocates nothing: not alone, not with a shared tier, not with a scope that is raised to what was read.
func TestHitDoesNotAllocate(t *testing.T) {
	load := func(ctx context.Context, key int) (int, error) {
		causal.From(ctx).Domain("db1").Saw("0001")
		return key, nil
	}
	scoped, scope := causal.Begin(t.Context())
	scope.Domain("db1").Wrote("0002")
	for name, o := range map[string]cache.Options[int, int]{
		"alone":              {TTL: time.Hour},
		"with a shared tier": {TTL: time.Hour, Remote: newFakeStore().node()},
	} {
		c := open(t, load, o)
		connected(t, c)
		for ctxName, ctx := range map[string]context.Context{"no scope": t.Context(), "a scope": scoped, "fresh was used": t.Context()} {
			if ctxName == "fresh was used" {
				cache.Fresh(ctx)
			}
			if _, err := c.Get(ctx, 1); err != nil {
				t.Fatal(err)
			}
			if n := testing.AllocsPerRun(1000, func() { c.Get(ctx, 1) }); n != 0 {
				t.Errorf("%s, %s: a hit allocates %v times", name, ctxName, n)
			}
			if n := testing.AllocsPerRun(1000, func() { c.Lookup(ctx, 1) }); n != 0 {
				t.Errorf("%s, %s: Lookup of a hit allocates %v times", name, ctxName, n)
			}
		}
	}
}
