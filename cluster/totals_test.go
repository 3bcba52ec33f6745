//go:build unix

package cluster

import (
	"testing"

	"github.com/fairlead/fairlead/cluster/internal/wire"
	"github.com/fairlead/fairlead/internal/telemetry"
)

func frameOf(counter, gauge float64) *wire.Frame {
	return &wire.Frame{Samples: []telemetry.Sample{
		{Name: "c", Kind: telemetry.Counter, Value: counter},
		{Name: "g", Kind: telemetry.Gauge, Value: gauge},
		{Name: "h", Kind: telemetry.Histogram, Buckets: &telemetry.Buckets{Counts: []uint64{uint64(counter)}, Sum: counter}},
	}}
}

func sums(t *totals) (counter, gauge, histogram float64) {
	for _, s := range t.samples(nil) {
		switch s.Name {
		case "c":
			counter = s.Value
		case "g":
			gauge = s.Value
		case "h":
			histogram = float64(s.Buckets.Count())
		}
	}
	return
}

func TestTotalsKeepWhatTheDeadHaveCounted(t *testing.T) {
	tot := newTotals()
	none := func(uint64) {}
	for id := 1; id <= 2; id++ {
		tot.add(id, none)
		tot.update(id, frameOf(10, 3), 0)
	}
	if c, g, h := sums(tot); c != 20 || g != 6 || h != 20 {
		t.Fatal(c, g, h)
	}
	tot.update(1, frameOf(15, 3), 0) // cumulative: it replaces
	tot.remove(1)
	tot.remove(1)
	tot.update(1, frameOf(99, 99), 0) // too late
	if c, g, h := sums(tot); c != 25 || g != 3 || h != 25 {
		t.Fatal(c, g, h)
	}
	tot.add(3, none)
	if c, g, h := sums(tot); c != 25 || g != 3 || h != 25 {
		t.Fatal(c, g, h)
	}
	tot.update(3, frameOf(1, 1), 0)
	if c, g, h := sums(tot); c != 26 || g != 4 || h != 26 {
		t.Fatal(c, g, h)
	}
}

func TestRefreshWaitsForThoseThatAnswerAndNotForThoseThatDoNot(t *testing.T) {
	tot := newTotals()
	tot.add(1, func(poll uint64) { go tot.update(1, frameOf(7, 0), poll) })
	tot.refresh(t.Context())
	if c, _, _ := sums(tot); c != 7 {
		t.Fatalf("refresh returned before the answer: %v", c)
	}
	tot.add(2, func(uint64) {})
	tot.refresh(t.Context()) // returns after scrapeWait, or this test never ends
}
