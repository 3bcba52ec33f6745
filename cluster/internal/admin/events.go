package admin

import (
	"fmt"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// level says how much something matters to whoever is on call.
type level string

const (
	fine level = "ok"
	warn level = "warn"
	bad  level = "bad"
)

func worse(a, b level) level {
	if rank[b] > rank[a] {
		return b
	}
	return a
}

var rank = map[level]int{fine: 0, warn: 1, bad: 2}

// event is something that happened between two snapshots.
type event struct {
	at    time.Time
	level level
	kind  string // worker, reload, crash, check, breaker, pool, cache, limit: what marks it on the charts
	text  string
}

// eventsBetween tells what changed from a snapshot to the next one.
func eventsBetween(before, now Snapshot) []event {
	var events []event
	say := func(l level, kind, format string, args ...any) {
		events = append(events, event{now.Time, l, kind, fmt.Sprintf(format, args...)})
	}
	workerEvents(before, now, say)
	checkEvents(before, now, say)
	switch {
	case now.Stopping && !before.Stopping:
		say(warn, "worker", "the service is stopping")
	case !now.Ready && before.Ready && !now.Stopping:
		say(bad, "check", "not ready any more")
	case now.Ready && !before.Ready:
		say(fine, "check", "ready")
	}
	a, b := byName(before.Samples), byName(now.Samples)
	for _, r := range stateRules {
		sampleEvents(a[r.name], b[r.name], r, say)
	}
	return events
}

type sayFunc func(l level, kind, format string, args ...any)

func workerEvents(before, now Snapshot, say sayFunc) {
	type key struct{ slot, generation int }
	was := map[key]Worker{}
	serving, restarts := map[int]bool{}, map[int]int{}
	for _, w := range before.Workers {
		was[key{w.Slot, w.Generation}] = w
		serving[w.Slot] = serving[w.Slot] || w.State == "ready"
		restarts[w.Slot] = w.Restarts
	}
	told := map[int]bool{}
	for _, w := range now.Workers {
		if w.Restarts > restarts[w.Slot] && !told[w.Slot] {
			told[w.Slot] = true
			say(bad, "crash", "slot %d: the worker ended by itself: %s", w.Slot, orUnknown(w.LastExit))
		}
		old, known := was[key{w.Slot, w.Generation}]
		delete(was, key{w.Slot, w.Generation})
		switch {
		case w.State == "backoff":
			if !known {
				say(warn, "worker", "slot %d waits before its next start", w.Slot)
			}
		case !known && serving[w.Slot] && !told[w.Slot]:
			say(fine, "reload", "slot %d: generation %d starts beside the one that serves", w.Slot, w.Generation)
			if w.State == "ready" {
				say(fine, "worker", "slot %d: generation %d is ready", w.Slot, w.Generation)
			}
		case !known:
			say(fine, "worker", "slot %d: generation %d is %s", w.Slot, w.Generation, w.State)
		case old.State != w.State:
			say(levelOf(w.State), "worker", "slot %d: generation %d is %s", w.Slot, w.Generation, w.State)
		}
	}
	for k, w := range was {
		if w.State == "draining" {
			say(fine, "worker", "slot %d: generation %d has drained and gone", k.slot, k.generation)
		}
	}
}

func levelOf(state string) level {
	switch state {
	case "hung", "errored":
		return bad
	case "suspect", "backoff":
		return warn
	}
	return fine
}

func orUnknown(s string) string {
	if s == "" {
		return "it is not known why"
	}
	return s
}

func checkEvents(before, now Snapshot, say sayFunc) {
	type key struct {
		slot int
		name string
	}
	was := map[key]string{}
	for _, c := range before.Checks {
		was[key{c.Slot, c.Name}] = c.Error
	}
	for _, c := range now.Checks {
		old, known := was[key{c.Slot, c.Name}]
		switch {
		case c.Error == NotChecked || old == NotChecked:
			// A new worker's, which goes on in time.
		case c.Error != "" && old == "" && known:
			say(bad, "check", "slot %d: check %s fails: %s", c.Slot, c.Name, c.Error)
		case c.Error == "" && old != "":
			say(fine, "check", "slot %d: check %s passes", c.Slot, c.Name)
		}
	}
}

// stateRule makes events of a sample that changes. Of a counter each growth is one; of a level each time it enters a state.
type stateRule struct {
	name   string
	kind   string
	states func(v float64) string // of a level: what it is in; "" is how it should be
	detail func(v float64) string // what the verdict adds to it
	grew   string                 // of a counter
	back   string                 // of a level: what it says when it is as it should be again
	level  level
}

func when(bad func(float64) bool, text string) func(float64) string {
	return func(v float64) string {
		if bad(v) {
			return text
		}
		return ""
	}
}

func zero(v float64) bool    { return v == 0 }
func nonzero(v float64) bool { return v != 0 }

var stateRules = []stateRule{
	{name: "fairlead.breaker.state", kind: "breaker", level: bad, back: "is closed", states: func(v float64) string {
		return map[float64]string{1: "is half-open: it probes", 2: "is open"}[v]
	}},
	{name: "fairlead.pool.failover", kind: "pool", level: warn, grew: "has another primary, or the old one restarted"},
	{name: "fairlead.pool.primary.missing", kind: "pool", level: bad, back: "has a primary", states: when(nonzero, "has no primary")},
	{name: "fairlead.pool.node.up", kind: "pool", level: bad, back: "is up", states: when(zero, "is down")},
	{name: "fairlead.pool.replica.lag", kind: "pool", level: warn, back: "has caught up", states: when(lagging, "lags"), detail: func(v float64) string { return " by " + duration(v) }},
	{name: "fairlead.cache.connected", kind: "cache", level: warn, back: "hears invalidations", states: when(zero, "does not hear invalidations")},
	{name: "fairlead.ratelimit.store_down", kind: "limit", level: warn, back: "has its store back", states: when(nonzero, "decides without its store")},
}

// lagging is later than anybody should have to wait for a replica.
func lagging(seconds float64) bool { return seconds > 5 }

func sampleEvents(before, now []telemetry.Sample, r stateRule, say sayFunc) {
	was := map[string]float64{}
	for _, s := range before {
		was[subject(s)] = s.Value
	}
	for _, s := range now {
		old, known := was[subject(s)]
		if !known {
			continue
		}
		if r.grew != "" {
			if s.Value > old {
				say(r.level, r.kind, "%s %s", subject(s), r.grew)
			}
			continue
		}
		switch state := r.states(s.Value); {
		case state == r.states(old):
		case state == "":
			say(fine, r.kind, "%s %s", subject(s), r.back)
		default:
			say(r.level, r.kind, "%s %s", subject(s), state)
		}
	}
}

// subject names what a sample is about: "breaker recommendations", "pool postgres node 10.0.0.7:5432".
func subject(s telemetry.Sample) string {
	text := ""
	for _, a := range s.Attrs {
		if a.Key == "role" {
			continue // a node keeps its name when its role changes
		}
		if text != "" {
			text += " "
		}
		text += a.Key + " " + a.Value
	}
	return text
}
