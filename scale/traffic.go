package scale

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// traffic counts the requests of a service. The names are OpenTelemetry's for HTTP servers.
type traffic struct {
	attrs  []telemetry.Attr
	active atomic.Int64

	series atomic.Pointer[map[seriesKey]*telemetry.DurationHistogram] // copied to grow: reading takes no lock
	mu     sync.Mutex                                                 // held to grow
}

type seriesKey struct {
	method, route, class string
}

// maxSeries bounds what a router that makes up patterns can cost; what exceeds it counts without a route.
const maxSeries = 2000

func newTraffic(service string) *traffic {
	t := &traffic{attrs: []telemetry.Attr{{Key: "service", Value: service}}}
	t.series.Store(&map[seriesKey]*telemetry.DurationHistogram{})
	return t
}

func (t *traffic) begin() { t.active.Add(1) }

func (t *traffic) end(req *request, method string, status int, aborted bool) {
	t.active.Add(-1)
	class := statusClass(status)
	switch {
	case aborted:
		class = "aborted"
	case class == "1xx":
		return // a connection, not a request
	}
	t.histogram(seriesKey{knownMethod(method), routeOf(req.route), class}).Record(time.Since(req.began))
}

func (t *traffic) histogram(key seriesKey) *telemetry.DurationHistogram {
	if h := (*t.series.Load())[key]; h != nil {
		return h
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.series.Load()
	if len(old) >= maxSeries {
		key.route = ""
	}
	if h := old[key]; h != nil {
		return h
	}
	grown := maps.Clone(old)
	h := new(telemetry.DurationHistogram)
	grown[key] = h
	t.series.Store(&grown)
	return h
}

func (t *traffic) samples() iter.Seq[Sample] {
	return func(yield func(Sample) bool) {
		if !yield(Sample{Name: "http.server.active_requests", Kind: telemetry.Gauge, Attrs: t.attrs, Value: float64(t.active.Load())}) {
			return
		}
		for key, h := range *t.series.Load() {
			b := h.Snapshot()
			attrs := append(slices.Clone(t.attrs),
				telemetry.Attr{Key: "http.request.method", Value: key.method},
				telemetry.Attr{Key: "http.route", Value: key.route},
				telemetry.Attr{Key: "http.response.status_class", Value: key.class})
			if !yield(Sample{Name: "http.server.request.duration", Kind: telemetry.Histogram, Attrs: attrs, Buckets: &b}) {
				return
			}
		}
	}
}

// routeOf drops the method of a mux pattern.
func routeOf(pattern string) string {
	if _, route, ok := strings.Cut(pattern, " "); ok {
		return strings.TrimLeft(route, " \t")
	}
	return pattern
}

// knownMethod keeps what a client makes up out of the metrics.
func knownMethod(m string) string {
	switch m {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "QUERY":
		return m
	}
	return "_OTHER"
}

func statusClass(status int) string {
	switch status / 100 {
	case 1:
		return "1xx"
	case 2:
		return "2xx"
	case 3:
		return "3xx"
	case 4:
		return "4xx"
	}
	return "5xx"
}
