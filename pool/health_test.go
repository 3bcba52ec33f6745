package pool

import (
	"testing"
	"time"
)

func replicas(costs ...float64) (all []candidate) {
	for _, c := range costs {
		all = append(all, candidate{node: new(node), cost: c, ramp: 1})
	}
	return all
}

func shares(all []candidate, picks int) map[*node]int {
	n := make(map[*node]int)
	for range picks {
		n[pick(all).node]++
	}
	return n
}

// A slower replica is passed over, one that is hardly slower is not, the busier of two alike is, and nobody is asked alone.
func TestPick(t *testing.T) {
	all := replicas(0.001, 0.0012, 0.050)
	n := shares(all, 3000)
	if n[all[2].node] != 0 {
		t.Errorf("the slow one served %d of 3000", n[all[2].node])
	}
	for i := range 2 {
		if n[all[i].node] < 1000 {
			t.Errorf("replica %d served %d of 3000", i, n[all[i].node])
		}
	}
	all[0].node.inUse.Store(1)
	if n := shares(all[:2], 1000); n[all[0].node] != 0 && n[all[1].node] < n[all[0].node] {
		t.Errorf("the busy one served %d of 1000", n[all[0].node])
	}
	all[1].node.inUse.Store(100) // so much that the slow one is the better
	if n := shares(all[1:], 100); n[all[2].node] != 100 {
		t.Errorf("the slow one served %d of 100 that the fast one had no time for", n[all[2].node])
	}
	if n := shares(all[2:], 10); n[all[2].node] != 10 {
		t.Error("the only one was not picked")
	}
}

// One that has come back gets its share little by little.
func TestSlowStart(t *testing.T) {
	all := replicas(0.001, 0.001)
	var h health
	now := time.Now()
	h.came(now)
	last := 0
	for _, age := range []time.Duration{0, slowStart / 4, slowStart / 2, slowStart} {
		all[1].ramp = h.ramp(now.Add(age))
		got := shares(all, 10000)[all[1].node]
		t.Logf("after %v: %d of 10000", age, got)
		if got <= last {
			t.Errorf("after %v: %d of 10000, before it %d", age, got, last)
		}
		last = got
	}
	if all[1].ramp != 1 || last < 4000 {
		t.Errorf("in the end: share %v, %d of 10000", all[1].ramp, last)
	}
}

// Failures in a row eject, for longer each time; an answer in between does not; half of the replicas stay, and the last.
func TestEjection(t *testing.T) {
	var h health
	now := time.Now()
	for i := range 100 {
		if h.failed(now); i%2 == 1 {
			h.succeeded(now)
		}
	}
	if h.isOut(now) {
		t.Error("ejected although it answers")
	}
	want := firstOut
	for range 8 {
		for i := range failsToOut {
			if out := h.failed(now); out != (i == failsToOut-1) {
				t.Fatalf("failure %d: ejected %v", i, out)
			}
		}
		if d := h.out.Sub(now); d != min(want, longestOut) {
			t.Errorf("ejected for %v, want %v", d, want)
		}
		want *= 2
		if !h.isOut(now) {
			t.Fatal("not ejected")
		}
		now = h.out
		if h.isOut(now) || h.ramp(now) != leastRamped {
			t.Errorf("share %v after its time", h.ramp(now))
		}
		h.succeeded(now)
	}
	h.succeeded(now.Add(slowStart + 1))
	if h.bouts != 0 {
		t.Error("what was long ago still counts")
	}
	for n, kept := range map[int]int{1: 1, 2: 1, 3: 2, 4: 2, 5: 3} {
		all := replicas(make([]float64, n)...)
		for i := range all {
			all[i].out = true
		}
		if got := len(spare(all)); got != kept {
			t.Errorf("of %d ejected ones %d are left, want %d", n, got, kept)
		}
	}
	all := replicas(1, 2, 3)
	all[1].out = true
	for _, c := range spare(all) {
		if c.out {
			t.Error("the ejected one is left")
		}
	}
}

// The cost follows answers up at once, but one slow answer does not make a slow server, and down in a few seconds.
func TestCost(t *testing.T) {
	var h health
	now := time.Now()
	h.took(time.Millisecond, now)
	h.took(5*time.Second, now)
	if h.cost > 0.005 {
		t.Errorf("one slow query costs %v", h.latency())
	}
	for range 4 {
		h.took(50*time.Millisecond, now)
	}
	if h.cost != 0.05 {
		t.Errorf("slow throughout: %v", h.latency())
	}
	for range 10 {
		now = now.Add(500 * time.Millisecond)
		h.took(time.Millisecond, now)
	}
	if h.cost > 0.002 {
		t.Errorf("fast for 5 s: %v", h.latency())
	}
}
