// Package otel looks at what Fairlead tells OpenTelemetry through its SDK, which the library itself does not import.
package otel

import (
	"context"
	"iter"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/fairlead/fairlead/internal/telemetry"
)

type stats struct {
	Hits  uint64            `metric:"fairlead.x.gets,counter,result=hit"`
	Miss  uint64            `metric:"fairlead.x.gets,counter,result=miss"`
	Depth int               `metric:"fairlead.x.depth,gauge"`
	Lag   time.Duration     `metric:"fairlead.x.lag,max"`
	Load  telemetry.Buckets `metric:"fairlead.x.load,histogram"`
}

func collect(t *testing.T, reader metric.Reader) map[string]metricdata.Metrics {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &rm); err != nil {
		t.Fatal(err)
	}
	got := map[string]metricdata.Metrics{}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			got[m.Name] = m
		}
	}
	return got
}

func TestSamplesBecomeInstruments(t *testing.T) {
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	now := stats{Hits: 3, Miss: 1, Depth: 7, Lag: 1500 * time.Millisecond}
	stop := telemetry.Observe(provider, "x", func() iter.Seq[telemetry.Sample] {
		return telemetry.Samples(now, telemetry.Attr{Key: "x", Value: "a"})
	}, stats{})
	var load telemetry.DurationHistogram
	load.Export(provider, "x", "fairlead.x.load", telemetry.Attr{Key: "x", Value: "a"})
	load.Record(3 * time.Millisecond)

	got := collect(t, reader)
	gets, ok := got["fairlead.x.gets"].Data.(metricdata.Sum[float64])
	if !ok || !gets.IsMonotonic || len(gets.DataPoints) != 2 {
		t.Fatalf("fairlead.x.gets = %+v, want a counter with two series", got["fairlead.x.gets"])
	}
	for _, p := range gets.DataPoints {
		result, _ := p.Attributes.Value(attribute.Key("result"))
		if want := map[string]float64{"hit": 3, "miss": 1}[result.AsString()]; p.Value != want {
			t.Errorf("gets of %s = %v, want %v", result.AsString(), p.Value, want)
		}
		if name, _ := p.Attributes.Value("x"); name.AsString() != "a" {
			t.Errorf("attributes %v lack the component's name", p.Attributes)
		}
	}
	if depth, ok := got["fairlead.x.depth"].Data.(metricdata.Sum[float64]); !ok || depth.IsMonotonic || depth.DataPoints[0].Value != 7 {
		t.Errorf("fairlead.x.depth = %+v, want an up-down counter at 7", got["fairlead.x.depth"])
	}
	if lag, ok := got["fairlead.x.lag"].Data.(metricdata.Gauge[float64]); !ok || lag.DataPoints[0].Value != 1.5 || got["fairlead.x.lag"].Unit != "s" {
		t.Errorf("fairlead.x.lag = %+v, want a gauge at 1.5 s", got["fairlead.x.lag"])
	}
	if h, ok := got["fairlead.x.load"].Data.(metricdata.Histogram[float64]); !ok || h.DataPoints[0].Count != 1 || h.DataPoints[0].Sum != 0.003 {
		t.Errorf("fairlead.x.load = %+v, want one duration of 3 ms", got["fairlead.x.load"])
	}

	stop()
	stop()
	if _, ok := collect(t, reader)["fairlead.x.gets"]; ok {
		t.Error("a component that was closed is still observed")
	}
}
