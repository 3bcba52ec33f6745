package admin

import (
	"math"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// figures answers questions about two snapshots of the same cluster: what is, and what happened in between.
type figures struct {
	now, before map[string][]telemetry.Sample // by name
	seconds     float64                       // between them; 0 when there is only one
}

func newFigures(now, before Snapshot) figures {
	f := figures{now: byName(now.Samples), before: byName(before.Samples)}
	if !before.Time.IsZero() {
		f.seconds = now.Time.Sub(before.Time).Seconds()
	}
	return f
}

func byName(samples []telemetry.Sample) map[string][]telemetry.Sample {
	m := make(map[string][]telemetry.Sample)
	for _, s := range samples {
		m[s.Name] = append(m[s.Name], s)
	}
	return m
}

// match says whether s has all of the attributes, given as key, value, key, value.
func match(s telemetry.Sample, attrs []string) bool {
	for i := 0; i+1 < len(attrs); i += 2 {
		if v, ok := attr(s, attrs[i]); !ok || v != attrs[i+1] {
			return false
		}
	}
	return true
}

func attr(s telemetry.Sample, key string) (string, bool) {
	for _, a := range s.Attrs {
		if a.Key == key {
			return a.Value, true
		}
	}
	return "", false
}

// value is the level or total of all series of that name with those attributes, and whether there is one.
func (f figures) value(name string, attrs ...string) (float64, bool) {
	return combine(f.now[name], attrs)
}

// or0 is value, 0 when there is none.
func (f figures) or0(name string, attrs ...string) float64 {
	v, _ := f.value(name, attrs...)
	return v
}

func combine(samples []telemetry.Sample, attrs []string) (v float64, ok bool) {
	for _, s := range samples {
		if !match(s, attrs) {
			continue
		}
		x := s.Value
		if s.Buckets != nil {
			x = float64(s.Buckets.Count())
		}
		switch {
		case !ok:
			v = x
		case s.Kind == telemetry.Max:
			v = max(v, x)
		case s.Kind == telemetry.Min:
			v = min(v, x)
		default:
			v += x
		}
		ok = true
	}
	return v, ok
}

// rate is how much the counters, or the counts of the histograms, grew in a second.
func (f figures) rate(name string, attrs ...string) float64 {
	if f.seconds <= 0 {
		return 0
	}
	now, _ := combine(f.now[name], attrs)
	before, _ := combine(f.before[name], attrs)
	return max(0, now-before) / f.seconds
}

// dist is the distribution of what the histograms of that name recorded in between.
func (f figures) dist(name string, attrs ...string) telemetry.Buckets {
	return add(f.now[name], attrs).Sub(add(f.before[name], attrs))
}

func add(samples []telemetry.Sample, attrs []string) telemetry.Buckets {
	var sum telemetry.Buckets
	for _, s := range samples {
		if s.Buckets != nil && match(s, attrs) {
			sum = sum.Add(*s.Buckets)
		}
	}
	return sum
}

// values are the different values of an attribute in the series of that name, in the order they come.
func (f figures) values(name, key string, attrs ...string) []string {
	var vs []string
	seen := map[string]bool{}
	for _, s := range f.now[name] {
		if v, ok := attr(s, key); ok && !seen[v] && match(s, attrs) {
			seen[v] = true
			vs = append(vs, v)
		}
	}
	return vs
}

const (
	requests  = "http.server.request.duration"
	classAttr = "http.response.status_class"
)

// point is a moment of the golden figures. NaN means that there is nothing to tell.
type point struct {
	at                                      time.Time
	rps, p50, p99, errors, saturation, hits float64 // errors, saturation and hits are shares
	inFlight, connections, refused          float64
	cpu                                     float64 // processors
	memory                                  float64 // bytes
}

func newPoint(now Snapshot, f figures) point {
	p := point{at: now.Time, rps: f.rate(requests), inFlight: f.or0("http.server.active_requests")}
	nan := math.NaN()
	p.p50, p.p99, p.errors, p.saturation, p.hits = nan, nan, nan, nan, nan
	if d := f.dist(requests); d.Count() > 0 {
		p.p50, p.p99 = d.Quantile(0.5), d.Quantile(0.99)
	}
	if p.rps > 0 {
		p.errors = (f.rate(requests, classAttr, "5xx") + f.rate(requests, classAttr, "aborted")) / p.rps
	}
	if v, ok := f.value("fairlead.overload.saturation"); ok {
		p.saturation = v
	}
	p.hits = hitRatio(f)
	p.refused = f.rate("fairlead.overload.refused")
	for _, w := range now.Workers {
		p.connections += float64(w.Connections)
		p.cpu += w.CPU
		p.memory += float64(w.RSS)
	}
	return p
}

// hitRatio is the share of a cache's gets, or of all, that were answered without the origin; NaN when there were none.
func hitRatio(f figures, attrs ...string) float64 {
	const gets = "fairlead.cache.gets"
	all := f.rate(gets, attrs...)
	if all == 0 {
		return math.NaN()
	}
	var hits float64
	for _, result := range []string{"memory", "remote", "stale"} {
		hits += f.rate(gets, append([]string{"result", result}, attrs...)...)
	}
	return hits / all
}
