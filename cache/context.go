package cache

import (
	"context"
	"sync/atomic"
)

type freshKey struct{}

// freshUsed spares the hit path a look through the context where nobody ever asks for Fresh.
var freshUsed atomic.Bool

// Fresh returns a context for reads that must not be answered from this process's memory: the shared tier or the origin is
// asked, by a load that began after the call. Every invalidation that had returned anywhere before is seen, not only those
// heard of. Without a Remote it loads.
func Fresh(ctx context.Context) context.Context {
	freshUsed.Store(true)
	return context.WithValue(ctx, freshKey{}, true)
}

func wantsFresh(ctx context.Context) bool {
	return freshUsed.Load() && ctx.Value(freshKey{}) != nil
}

// loading is the chain of loads that a context is inside of.
type loading struct {
	cache any
	names map[string]bool
	outer *loading
}

type loadingKey struct{}

// inside returns a context for the load of names by cache.
func inside(ctx context.Context, cache any, names ...string) context.Context {
	outer, _ := ctx.Value(loadingKey{}).(*loading)
	l := &loading{cache: cache, names: make(map[string]bool, len(names)), outer: outer}
	for _, name := range names {
		l.names[name] = true
	}
	return context.WithValue(ctx, loadingKey{}, l)
}

// reentrant says whether ctx is inside of a load of name by cache.
func reentrant(ctx context.Context, cache any, name string) bool {
	l, _ := ctx.Value(loadingKey{}).(*loading)
	for ; l != nil; l = l.outer {
		if l.cache == cache && l.names[name] {
			return true
		}
	}
	return false
}
