package admin

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// view is everything that the page shows at a moment. The first paint, the frames and /top are made of it.
type view struct {
	service string
	at      time.Time
	level   level
	verdict string   // in words
	reasons []string // what is wrong, worst first
	tiles   []tile
	workers []Worker
	routes  []route
	cards   []card
	events  []event // newest first
}

// tile is one golden figure.
type tile struct {
	key, label  string
	value, unit string
	note        string
	level       level
	history     []float64
	unitOf      func(float64) string // the history's values in words
}

// route is the traffic of one route.
type route struct {
	method, pattern string
	rps, p50, p99   float64
	errors, refused float64 // shares of 5xx and of 429
}

const (
	historyLen  = 120 // seconds
	rateSpan    = 5 * time.Second
	shownRoutes = 12
	shownEvents = 60
)

func newView(now, before Snapshot, history []point, events []event) view {
	f := newFigures(now, before)
	v := view{at: now.Time, workers: now.Workers, events: events}
	if names := f.values(requests, "service"); len(names) > 0 {
		v.service = names[0]
	} else if names := f.values("http.server.active_requests", "service"); len(names) > 0 {
		v.service = names[0]
	}
	last := point{errors: math.NaN(), p50: math.NaN(), p99: math.NaN(), saturation: math.NaN(), hits: math.NaN()}
	if len(history) > 0 {
		last = history[len(history)-1]
	}
	v.tiles = newTiles(f, last, history)
	v.routes = newRoutes(f)
	v.cards = newCards(f)
	v.judge(now, f, last)
	return v
}

// judge makes up the verdict: the worst of what is wrong, and the figures that matter most.
func (v *view) judge(now Snapshot, f figures, last point) {
	type finding struct {
		level level
		text  string
	}
	var found []finding
	say := func(l level, format string, args ...any) {
		found = append(found, finding{l, fmt.Sprintf(format, args...)})
	}
	slots, ready := map[int]bool{}, map[int]bool{}
	for _, w := range now.Workers {
		slots[w.Slot] = true
		ready[w.Slot] = ready[w.Slot] || w.State == "ready"
		if l := levelOf(w.State); l != fine {
			say(l, "slot %d is %s", w.Slot, w.State)
		}
	}
	switch {
	case now.Stopping:
		say(warn, "the service is stopping")
	case len(ready) > 0 && !slices.Contains(values(ready), true):
		say(bad, "no worker is ready")
	case !now.Ready:
		say(bad, "not ready")
	case slices.Contains(values(ready), false):
		say(warn, "%d of %d slots have no ready worker", len(slots)-trues(ready), len(slots))
	}
	for _, c := range now.Checks {
		if c.Error != "" && c.Error != NotChecked {
			say(bad, "check %s fails in slot %d", c.Name, c.Slot)
		}
	}
	for _, r := range stateRules {
		if r.states == nil {
			continue
		}
		for _, s := range f.now[r.name] {
			state := r.states(s.Value)
			if state != "" && r.detail != nil {
				state += r.detail(s.Value)
			}
			if state != "" {
				say(r.level, "%s %s", subject(s), state)
			}
		}
	}
	if last.errors > 0.01 {
		say(warn, "%s %% of requests fail", percent(last.errors))
	}
	if last.refused > 0 {
		say(warn, "overload control refuses %s requests a second", number(last.refused))
	}
	slices.SortStableFunc(found, func(a, b finding) int { return rank[b.level] - rank[a.level] })
	v.level = fine
	for _, x := range found {
		v.level = worse(v.level, x.level)
		if !slices.Contains(v.reasons, x.text) {
			v.reasons = append(v.reasons, x.text)
		}
	}

	words := map[level]string{fine: "healthy", warn: "degraded", bad: "in trouble"}[v.level]
	if now.Stopping {
		words = "stopping"
	}
	parts := []string{fmt.Sprintf("%d/%d workers", trues(ready), len(slots)), number(last.rps) + " rps"}
	if !math.IsNaN(last.p99) {
		parts = append(parts, "p99 "+duration(last.p99))
	}
	if states := f.now["fairlead.breaker.state"]; len(states) > 0 {
		open := 0
		for _, s := range states {
			if s.Value > 0 {
				open++
			}
		}
		parts = append(parts, count(open, "breaker open", "breakers open"))
	}
	v.verdict = words + ": " + strings.Join(parts, ", ")
}

func values(m map[int]bool) []bool {
	var vs []bool
	for _, v := range m {
		vs = append(vs, v)
	}
	return vs
}

func trues(m map[int]bool) int {
	n := 0
	for _, v := range m {
		if v {
			n++
		}
	}
	return n
}

func newTiles(f figures, last point, history []point) []tile {
	pick := func(get func(point) float64) []float64 {
		vs := make([]float64, len(history))
		for i, p := range history {
			vs[i] = get(p)
		}
		return vs
	}
	above := func(v, limit float64) level {
		if v > limit {
			return warn
		}
		return fine
	}
	split := func(s string) (string, string) {
		value, unit, _ := strings.Cut(s, " ")
		return value, unit
	}
	share := func(v float64) string { return percent(v) + " %" }
	perSecond := func(v float64) string { return number(v) + "/s" }

	tiles := []tile{{key: "rps", label: "Requests", value: number(last.rps), unit: "/s", history: pick(func(p point) float64 { return p.rps }), unitOf: perSecond,
		note: number(last.inFlight) + " in flight", level: fine}}
	value, unit := split(duration(last.p99))
	tiles = append(tiles, tile{key: "p99", label: "Latency p99", value: value, unit: unit, history: pick(func(p point) float64 { return p.p99 }), unitOf: duration,
		note: "p50 " + duration(last.p50), level: fine})
	tiles = append(tiles, tile{key: "errors", label: "Errors", value: percent(last.errors), unit: "%", history: pick(func(p point) float64 { return p.errors }), unitOf: share,
		note: number(f.rate(requests, classAttr, "4xx")) + "/s answered 4xx", level: above(last.errors, 0.01)})
	if _, ok := f.value("fairlead.overload.saturation"); ok {
		note := "nothing refused"
		if last.refused > 0 {
			note = number(last.refused) + "/s refused"
		}
		tiles = append(tiles, tile{key: "saturation", label: "Saturation", value: percent(last.saturation), unit: "%",
			history: pick(func(p point) float64 { return p.saturation }), unitOf: share, note: note, level: worse(above(last.saturation, 1), above(last.refused, 0))})
	}
	if _, ok := f.value("fairlead.cache.gets"); ok {
		tiles = append(tiles, tile{key: "hits", label: "Cache hits", value: percent(last.hits), unit: "%", history: pick(func(p point) float64 { return p.hits }), unitOf: share,
			note: number(f.rate("fairlead.cache.loads")) + "/s loaded", level: fine})
	}
	tiles = append(tiles, tile{key: "cpu", label: "Processor", value: number(last.cpu), unit: "cores", history: pick(func(p point) float64 { return p.cpu }),
		unitOf: func(v float64) string { return number(v) + " cores" }, note: bytes(last.memory) + " in memory", level: fine})
	tiles = append(tiles, tile{key: "connections", label: "Connections", value: number(last.connections), history: pick(func(p point) float64 { return p.connections }), unitOf: number,
		note: number(f.rate("fairlead.drain.accepted")) + "/s accepted", level: fine})
	return tiles
}

func newRoutes(f figures) []route {
	type key struct{ method, pattern string }
	seen := map[key]bool{}
	var routes []route
	for _, s := range f.now[requests] {
		method, _ := attr(s, "http.request.method")
		pattern, _ := attr(s, "http.route")
		if seen[key{method, pattern}] {
			continue
		}
		seen[key{method, pattern}] = true
		of := []string{"http.request.method", method, "http.route", pattern}
		r := route{method: method, pattern: pattern, rps: f.rate(requests, of...), p50: math.NaN(), p99: math.NaN()}
		if r.rps == 0 {
			continue
		}
		d := f.dist(requests, of...)
		r.p50, r.p99 = d.Quantile(0.5), d.Quantile(0.99)
		class := func(c string) float64 { return f.rate(requests, append([]string{classAttr, c}, of...)...) / r.rps }
		r.errors, r.refused = class("5xx")+class("aborted"), class("4xx")
		routes = append(routes, r)
	}
	slices.SortStableFunc(routes, func(a, b route) int {
		if a.rps != b.rps {
			return int(math.Copysign(1, b.rps-a.rps))
		}
		return strings.Compare(a.pattern+a.method, b.pattern+b.method)
	})
	return routes[:min(len(routes), shownRoutes)]
}
