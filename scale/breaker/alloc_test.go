//go:build !race

package breaker

import (
	"context"
	"testing"
)

func TestDoDoesNotAllocateWhileClosed(t *testing.T) {
	b := newTest(t, Options{FailureRate: -1})
	v := 0
	for name, fn := range map[string]func(context.Context) (int, error){
		"success": func(context.Context) (int, error) { v++; return v, nil },
		"failure": func(context.Context) (int, error) { v++; return v, errDown },
	} {
		allocs := testing.AllocsPerRun(1000, func() { Do(ctx, b, fn) })
		// errors.As takes the address of its target.
		if limit := map[string]float64{"success": 0, "failure": 1}[name]; allocs > limit {
			t.Errorf("%s: %v allocations, want %v", name, allocs, limit)
		}
	}
	b.Force(Closed)
	if allocs := testing.AllocsPerRun(1000, func() {
		Do(ctx, b, func(context.Context) (int, error) { v++; return v, nil })
	}); allocs != 0 {
		t.Errorf("forced: %v allocations", allocs)
	}
}
