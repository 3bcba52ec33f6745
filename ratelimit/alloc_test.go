//go:build !race

package ratelimit

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"
)

func TestALocalDecisionAllocatesNothing(t *testing.T) {
	ctx := context.Background()
	plans := [2]Limit{PerSecond(100), PerSecond(1000).And(Per(50_000, time.Hour))}
	single, err := New("single", PerSecond(50).Burst(100), Options{})
	if err != nil {
		t.Fatal(err)
	}
	joined, err := New("joined", PerSecond(50).Burst(100).And(Per(1000, time.Hour)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	planned, err := New("planned", PerSecond(1), Options{LimitFor: func(_ context.Context, key string) Limit { return plans[len(key)%2] }})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []*Limiter{single, joined, planned} {
		var store Store = l.memory
		if n := testing.AllocsPerRun(1000, func() { _, _ = l.Take(ctx, "k", 1) }); n != 0 {
			t.Errorf("%s: %v allocations a decision", l.name, n)
		}
		if n := testing.AllocsPerRun(1000, func() { _, _ = store.Take(ctx, Ask{Name: "n", Key: "k", Cost: 1, Rules: l.limit.rules}) }); n != 0 {
			t.Errorf("%s through the interface: %v allocations a decision", l.name, n)
		}
	}
}

func TestAMillionKeysFitInMemory(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	store := NewMemory(0)
	before := heap()
	rules := Per(5, time.Hour).rules
	for i := range 1_000_000 {
		store.take(Ask{Name: "n", Key: fmt.Sprint(i), Cost: 1, Rules: rules})
	}
	after := heap()
	if n := store.len(); n < 900_000 {
		t.Fatalf("%d keys held", n)
	}
	each := float64(after-before) / float64(store.len())
	t.Logf("%.0f bytes a key", each)
	if each > 130 {
		t.Errorf("%.0f bytes a key: want at most 130", each)
	}
	runtime.KeepAlive(store)
}
