package consistency

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// event is one operation of a session. A session does one thing after the other, on whichever process.
type event struct {
	session, key int
	kind         kind
	version, by  int64 // what a read has shown, or a write has made
}

type kind byte

const (
	wrote   kind = iota // and it was acknowledged
	read                //
	tried               // a write that failed, or whose outcome is unknown
	toldOff             // CausalityLostError: the session has been told that something of it is gone
)

// limits are what a history has to keep to besides each session's order.
type limits struct {
	told  int           // how often a session may be told of a loss: the number of failovers
	final map[int]int64 // the versions at the end, by key; nil: not looked at
}

// audit reads a history once and returns what is wrong with it: reads behind an own write (read your writes) or an earlier read
// (monotonic reads), reads of versions that nobody wrote, another write in the place of one that was seen, keys that have
// more or, without a failover, fewer versions in the end than were written.
func audit(history []event, l limits) (wrong []string) {
	type place struct{ session, key int }
	type floor struct {
		event
		own bool
	}
	floors := make(map[place]floor)
	told := make(map[int]int)
	attempts, acked := make(map[int]int64), make(map[int]int64)
	for _, e := range history {
		switch e.kind {
		case wrote:
			acked[e.key]++
			attempts[e.key]++
		case tried:
			attempts[e.key]++
		}
	}
	bad := func(i int, format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("event %d, session %d, key %d: ", i, history[i].session, history[i].key)+fmt.Sprintf(format, args...))
	}
	for i, e := range history {
		at := place{e.session, e.key}
		f, known := floors[at]
		what := "an earlier read"
		if f.own {
			what = "its own write"
		}
		switch e.kind {
		case toldOff:
			if told[e.session]++; told[e.session] > l.told {
				bad(i, "told of a loss %d times, want at most %d", told[e.session], l.told)
			}
			for p := range floors {
				if p.session == e.session {
					delete(floors, p)
				}
			}
			continue
		case tried:
			continue
		case read:
			if e.version > attempts[e.key] {
				bad(i, "read version %d, of which only %d were ever tried", e.version, attempts[e.key])
			}
			if known && e.version < f.version {
				bad(i, "read version %d after %s had version %d", e.version, what, f.version)
			}
		case wrote:
			if known && e.version <= f.version {
				bad(i, "wrote version %d after %s had version %d", e.version, what, f.version)
			}
		}
		if known && e.version == f.version && e.by != f.by {
			bad(i, "version %d is another write than %s", e.version, what)
		}
		if !known || e.version >= f.version {
			floors[at] = floor{e, e.kind == wrote}
		}
	}
	for key, version := range l.final {
		if version > attempts[key] {
			wrong = append(wrong, fmt.Sprintf("key %d ends at version %d after %d attempts: something was applied twice", key, version, attempts[key]))
		}
		if l.told == 0 && version < acked[key] {
			wrong = append(wrong, fmt.Sprintf("key %d ends at version %d after %d acknowledged writes", key, version, acked[key]))
		}
	}
	return wrong
}

// A good history passes; each violation that is planted into it is found, by name.
func TestAuditFindsPlantedViolations(t *testing.T) {
	good := []event{
		{1, 7, read, 0, 0},
		{1, 7, wrote, 1, 101},
		{2, 7, read, 0, 0}, // another session may be behind
		{1, 7, read, 1, 101},
		{2, 7, wrote, 2, 102},
		{1, 7, read, 2, 102},
		{1, 8, wrote, 1, 103},
		{2, 8, tried, 0, 0},
		{2, 8, read, 2, 104}, // it was applied after all
		{2, 7, read, 2, 102},
		{1, 8, read, 1, 103},
	}
	final := map[int]int64{7: 2, 8: 2}
	if wrong := audit(good, limits{final: final}); len(wrong) > 0 {
		t.Errorf("a good history: %q", wrong)
	}
	with := func(at int, e ...event) []event { return slices.Insert(slices.Clone(good), at, e...) }
	for name, c := range map[string]struct {
		history []event
		limits  limits
		want    string
	}{
		"a read behind an own write":      {with(2, event{1, 7, read, 0, 0}), limits{}, "event 2, session 1, key 7: read version 0 after its own write had version 1"},
		"much later":                      {append(slices.Clone(good), event{1, 7, read, 1, 101}), limits{}, "event 11, session 1, key 7: read version 1 after an earlier read had version 2"},
		"a read behind an earlier read":   {append(slices.Clone(good), event{2, 8, read, 1, 103}), limits{}, "session 2, key 8: read version 1 after an earlier read had version 2"},
		"a write behind an earlier read":  {append(slices.Clone(good), event{2, 8, wrote, 2, 105}), limits{}, "wrote version 2 after an earlier read had version 2"},
		"another write in its place":      {append(slices.Clone(good), event{1, 8, read, 1, 999}), limits{}, "version 1 is another write than"},
		"a version nobody wrote":          {append(slices.Clone(good), event{1, 8, read, 3, 104}), limits{}, "read version 3, of which only 2 were ever tried"},
		"told of a loss without one":      {with(4, event{1, 0, toldOff, 0, 0}), limits{}, "told of a loss 1 times, want at most 0"},
		"told twice of one loss":          {with(4, event{1, 0, toldOff, 0, 0}, event{1, 0, toldOff, 0, 0}), limits{told: 1}, "told of a loss 2 times, want at most 1"},
		"only who is told may go back":    {with(4, event{2, 0, toldOff, 0, 0}, event{1, 7, read, 0, 0}), limits{told: 1}, "session 1, key 7: read version 0 after"},
		"and only once":                   {append(slices.Clone(good), event{1, 0, toldOff, 0, 0}, event{1, 7, read, 1, 101}, event{1, 7, read, 0, 0}), limits{told: 1}, "read version 0 after an earlier read had version 1"},
		"applied twice":                   {good, limits{final: map[int]int64{7: 3}}, "key 7 ends at version 3 after 2 attempts"},
		"an acknowledged write that lost": {good, limits{final: map[int]int64{7: 1}}, "key 7 ends at version 1 after 2 acknowledged writes"},
	} {
		wrong := audit(c.history, c.limits)
		if len(wrong) == 0 || !strings.Contains(strings.Join(wrong, "\n"), c.want) {
			t.Errorf("%s: found %q, want %q", name, wrong, c.want)
		}
	}
	back := append(slices.Clone(good), event{1, 0, toldOff, 0, 0}, event{1, 7, read, 0, 0}, event{1, 8, read, 0, 0})
	if wrong := audit(back, limits{told: 1, final: map[int]int64{7: 1}}); len(wrong) > 0 {
		t.Errorf("after a loss that the session was told of: %q", wrong)
	}
}
