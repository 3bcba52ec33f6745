package telemetry

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

type stats struct {
	Hits   uint64        `metric:"fairlead.x.gets,counter,tier=memory"`
	Misses uint64        `metric:"fairlead.x.gets,counter,tier=none"`
	Lag    time.Duration `metric:"fairlead.x.lag,max"`
	Open   bool          `metric:"fairlead.x.open,gauge"`
	Loads  Buckets       `metric:"fairlead.x.load.duration,histogram"`
	Nested struct {
		Depth int `metric:"fairlead.x.depth,gauge"`
	}
	Comment string
	private int
}

func TestSamplesFollowTheTags(t *testing.T) {
	var h DurationHistogram
	h.Record(time.Millisecond)
	s := stats{Hits: 3, Misses: 1, Lag: 1500 * time.Millisecond, Open: true, Loads: h.Snapshot(), private: 1}
	s.Nested.Depth = 7
	got := slices.Collect(Samples(s, Attr{"name", "products"}))
	want := []struct {
		name  string
		kind  Kind
		unit  string
		value float64
	}{
		{"fairlead.x.gets", Counter, "", 3}, {"fairlead.x.gets", Counter, "", 1}, {"fairlead.x.lag", Max, "s", 1.5},
		{"fairlead.x.open", Gauge, "", 1}, {"fairlead.x.load.duration", Histogram, "s", 0}, {"fairlead.x.depth", Gauge, "", 7},
	}
	if len(got) != len(want) {
		t.Fatalf("%d samples: %+v", len(got), got)
	}
	for i, w := range want {
		g := got[i]
		if g.Name != w.name || g.Kind != w.kind || g.Unit != w.unit || g.Value != w.value || g.Attrs[0] != (Attr{"name", "products"}) {
			t.Errorf("sample %d = %+v, want %+v", i, g, w)
		}
	}
	if a := got[0].Attrs; len(a) != 2 || a[1] != (Attr{"tier", "memory"}) {
		t.Errorf("attrs = %v", a)
	}
	if got[4].Buckets.Count() != 1 {
		t.Errorf("histogram = %+v", got[4].Buckets)
	}
}

func TestMalformedTagsPanic(t *testing.T) {
	for _, bad := range []any{
		struct {
			A int `metric:"name"`
		}{},
		struct {
			A int `metric:"name,speed"`
		}{},
		struct {
			A string `metric:"name,counter"`
		}{},
		struct {
			A int `metric:"name,histogram"`
		}{},
		struct {
			A int `metric:"name,counter,tier"`
		}{},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%T was taken", bad)
				}
			}()
			for range Samples(bad) {
			}
		}()
	}
}

// Every value lies in its bucket, edges rise by at most a quarter, and the last bucket takes the rest.
func TestBuckets(t *testing.T) {
	last := -1.0
	for i := range numBuckets {
		edge := upperEdge(i)
		if edge <= last {
			t.Fatalf("edge %d = %v after %v", i, edge, last)
		}
		if edge > 1e-6 && edge > last*1.251 {
			t.Fatalf("edge %d = %v is %.3f times the one before", i, edge, edge/last)
		}
		last = edge
	}
	for range 100_000 {
		ns := rand.Uint64N(1 << (1 + rand.IntN(maxExp)))
		i := bucketOf(ns)
		if float64(ns)/1e9 > upperEdge(i) || i > 0 && float64(ns)/1e9 <= upperEdge(i-1) {
			t.Fatalf("%d ns in bucket %d (%v, %v]", ns, i, upperEdge(i-1), upperEdge(i))
		}
	}
	if got := bucketOf(math.MaxUint64); got != numBuckets-1 {
		t.Fatalf("the longest duration is in bucket %d of %d", got, numBuckets)
	}
}

// The page's promise: percentiles of merged histograms are those of all requests together, not an average of averages.
func TestMergedQuantileIsWithinABucketOfTheTrueOne(t *testing.T) {
	var all []float64
	var merged Buckets
	for worker := range 4 {
		var h DurationHistogram
		n := 20_000
		if worker == 3 {
			n = 50 // idle and slow
		}
		for range n {
			d := time.Duration((1 + rand.ExpFloat64()) * float64(time.Millisecond) * float64(1+worker*worker*20))
			h.Record(d)
			all = append(all, d.Seconds())
		}
		merged = merged.Add(h.Snapshot())
	}
	slices.Sort(all)
	if merged.Count() != uint64(len(all)) {
		t.Fatalf("count = %d, want %d", merged.Count(), len(all))
	}
	for _, q := range []float64{0, 0.5, 0.9, 0.99, 0.999, 1} {
		truth := all[max(0, int(math.Ceil(q*float64(len(all))))-1)]
		if got := merged.Quantile(q); got < truth || got > truth*1.251 {
			t.Errorf("q%v = %v, truth %v", q, got, truth)
		}
	}
	if got := (Buckets{}).Quantile(0.5); got != 0 {
		t.Errorf("empty: %v", got)
	}
}

func snapshotOf(hits uint64, lag time.Duration, open bool, loads ...time.Duration) []Sample {
	var h DurationHistogram
	for _, d := range loads {
		h.Record(d)
	}
	return slices.Collect(Samples(stats{Hits: hits, Lag: lag, Open: open, Loads: h.Snapshot()}))
}

func TestMerge(t *testing.T) {
	a, b := snapshotOf(3, time.Second, true, time.Millisecond), snapshotOf(4, 2*time.Second, true, time.Second, time.Second)
	merged := Merge(b, a, Retained(snapshotOf(5, time.Minute, true, time.Hour)))
	value := map[string]float64{}
	for _, s := range merged {
		if s.Kind == Histogram {
			value[s.Name] = float64(s.Buckets.Count())
		} else if len(s.Attrs) == 0 || s.Attrs[0].Value == "memory" {
			value[s.Name] = s.Value
		}
	}
	for name, want := range map[string]float64{
		"fairlead.x.gets": 12, "fairlead.x.lag": 2, "fairlead.x.open": 2, "fairlead.x.load.duration": 4,
	} {
		if value[name] != want {
			t.Errorf("%s = %v, want %v", name, value[name], want)
		}
	}
	if a[4].Buckets.Count() != 1 || b[4].Buckets.Count() != 2 {
		t.Error("Merge changed its input")
	}
	// What crosses a process boundary is the JSON of samples.
	wire, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	var back []Sample
	if err := json.Unmarshal(wire, &back); err != nil || len(Merge(a, back)) != len(a) {
		t.Fatalf("%v: %s", err, wire)
	}
}

func TestWriteText(t *testing.T) {
	samples := Merge(snapshotOf(3, 1500*time.Millisecond, false, 3*time.Millisecond), []Sample{
		{Name: "app.wait", Kind: Histogram, Buckets: new(Buckets)},
		{Name: "app.jobs", Kind: Gauge, Attrs: []Attr{{"queue", "a\"b\\c\nd"}}, Value: 2.5},
	})
	var out bytes.Buffer
	if err := WriteText(&out, samples); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, line := range []string{
		"app_wait_seconds_count 0",
		"# TYPE app_jobs gauge\n" + `app_jobs{queue="a\"b\\c\nd"} 2.5`,
		"# TYPE fairlead_x_gets_total counter\n" + `fairlead_x_gets_total{tier="memory"} 3` + "\n" + `fairlead_x_gets_total{tier="none"} 0`,
		"# TYPE fairlead_x_lag_seconds gauge\nfairlead_x_lag_seconds 1.5",
		"# TYPE fairlead_x_load_duration_seconds histogram",
		`fairlead_x_load_duration_seconds_bucket{le="0.002097151"} 0`,
		`fairlead_x_load_duration_seconds_bucket{le="0.004194303"} 1`,
		`fairlead_x_load_duration_seconds_bucket{le="+Inf"} 1`,
		"fairlead_x_load_duration_seconds_sum 0.003\nfairlead_x_load_duration_seconds_count 1",
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("missing\n%s\nin\n%s", line, text)
		}
	}
	if n := strings.Count(text, "# TYPE fairlead_x_gets_total"); n != 1 {
		t.Errorf("%d TYPE lines for one name", n)
	}
}

func BenchmarkRecord(b *testing.B) {
	var h DurationHistogram
	b.ReportAllocs()
	for b.Loop() {
		h.Record(3 * time.Millisecond)
	}
}

func TestTextNamesUnitsAndHelps(t *testing.T) {
	type sizes struct {
		Heap    uint64        `metric:"x.heap,gauge,unit=By"`
		Threads int           `metric:"x.thread.count,gauge"`
		Wait    time.Duration `metric:"x.wait,max"`
		Gets    int           `metric:"http.server.active_requests,gauge"`
	}
	var b bytes.Buffer
	if err := WriteText(&b, Merge(slices.Collect(Samples(sizes{Heap: 5, Threads: 2, Wait: time.Second, Gets: 1})))); err != nil {
		t.Fatal(err)
	}
	want := `# HELP http_server_active_requests Requests being served.
# TYPE http_server_active_requests gauge
http_server_active_requests 1
# HELP x_heap_bytes The application's x.heap.
# TYPE x_heap_bytes gauge
x_heap_bytes 5
# HELP x_threads The application's x.thread.count.
# TYPE x_threads gauge
x_threads 2
# HELP x_wait_seconds The application's x.wait.
# TYPE x_wait_seconds gauge
x_wait_seconds 1
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
