//go:build !race

package overload

import (
	"context"
	"testing"
)

func TestAPermitCostsOneAllocation(t *testing.T) {
	l := limiterOf(t, Options{}, nil)
	background := context.Background()
	ended, cancel := context.WithCancel(background)
	defer cancel()
	for name, ctx := range map[string]context.Context{"background": background, "request": WithPriority(ended, Sheddable)} {
		if n := testing.AllocsPerRun(1000, func() {
			ctx, err := l.Acquire(ctx, "key")
			if err != nil {
				t.Fatal(err)
			}
			Release(ctx)
		}); n > 1 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
