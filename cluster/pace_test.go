package cluster

import (
	"math"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/sys"
	"github.com/fairlead/fairlead/internal/telemetry"
)

func TestPace(t *testing.T) {
	served := func(n int) []telemetry.Sample {
		var h telemetry.DurationHistogram
		for range n {
			h.Record(time.Millisecond)
		}
		b := h.Snapshot()
		return []telemetry.Sample{{Name: "http.server.request.duration", Kind: telemetry.Histogram, Buckets: &b}, {Name: "other", Value: 9}}
	}
	var p pace
	began := time.Now()
	if got := p.measure(began, served(10)); got != (paceFigures{}) {
		t.Errorf("the first reading has nothing to compare with: %+v", got)
	}
	if got := p.measure(began.Add(paceSpan/2), served(20)); got != (paceFigures{}) {
		t.Errorf("too soon: %+v", got)
	}
	for end := p.cpu + 20*time.Millisecond; ; { // work
		if now := sys.CPUTime(); now >= end || now == 0 {
			break
		}
	}
	got := p.measure(began.Add(2*time.Second), served(50))
	if got.rps != 20 {
		t.Errorf("40 requests in 2 s: %v a second", got.rps)
	}
	if sys.CPUTime() > 0 && got.cpu < 0.01 {
		t.Errorf("20 ms of a processor in 2 s: %v processors", got.cpu)
	}
	if again := p.measure(began.Add(2*time.Second+paceSpan/2), served(90)); again != got {
		t.Errorf("asked again too soon: %+v, not %+v", again, got)
	}
}

func TestQuantileOfWhatCameBetween(t *testing.T) {
	h := &metrics.Float64Histogram{Counts: []uint64{100, 98, 2, 1}, Buckets: []float64{0, 1, 2, 3, math.Inf(1)}}
	for _, c := range []struct {
		before []uint64
		q      float64
		want   float64
	}{
		{[]uint64{100, 0, 0, 0}, 0.5, 2},
		{[]uint64{100, 0, 0, 0}, 0.98, 3},
		{[]uint64{100, 98, 2, 0}, 0.99, 3}, // the last bucket has no upper edge
		{[]uint64{100, 98, 2, 1}, 0.99, 0},
		{nil, 0.3, 1},
	} {
		if got := quantile(h, c.before, c.q); got != c.want {
			t.Errorf("quantile %v beyond %v = %v, want %v", c.q, c.before, got, c.want)
		}
	}
}
