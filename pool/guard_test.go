package pool

import (
	"errors"
	"testing"

	"github.com/fairlead/fairlead/pool/internal/lsn"
)

// What a replica says of itself before a read proves something only if the read's snapshot comes after it, on the run of the
// server and the timeline that are known.
func TestGuard(t *testing.T) {
	run, other := identity{system: 1, start: 1}, identity{system: 1, start: 2}
	behind, ahead := "0/64", "0/12C"
	one, two := uint32(1), uint32(2)
	for _, c := range []struct {
		name     string
		guard    guardRow
		conn     identity
		timeline uint32
		want     error
	}{
		{"far enough", guardRow{replica: true, position: &ahead, timeline: &one, committed: true}, run, 1, nil},
		{"far enough on a timeline that no probe has seen yet", guardRow{replica: true, position: &ahead, timeline: &two, committed: true}, run, 1, errShort},
		{"far enough on an unknown timeline, without a primary", guardRow{replica: true, position: &ahead, committed: true}, run, 1, errShort},
		{"behind", guardRow{replica: true, position: &behind, timeline: &one, committed: true}, run, 1, errShort},
		{"nothing replayed", guardRow{replica: true, committed: true}, run, 1, errShort},
		{"one snapshot for the whole transaction", guardRow{replica: true, position: &ahead, timeline: &one}, run, 1, errShort},
		{"another run of the server", guardRow{replica: true, position: &ahead, timeline: &one, committed: true}, other, 1, errRole},
		{"promoted", guardRow{position: &ahead, committed: true}, run, 1, errRole},
		{"another timeline", guardRow{replica: true, position: &ahead, timeline: &one, committed: true}, run, 2, errShort},
	} {
		db := &Pool{}
		n := &node{db: db, wake: make(chan struct{}, 1), moved: make(chan struct{})}
		n.up, n.seen = true, observation{id: run, pos: lsn.Position{Timeline: 1, LSN: 50}}
		target := target{lease: lease{node: n, state: &connState{id: c.conn}}, guard: true, bound: lsn.Position{Timeline: c.timeline, LSN: 200}}
		if err := c.guard.judge(&read{db: db}, &target); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// While there is no primary, a probe does not move a replica's position on unless the replica tells its timeline: it may
// have found a new primary already.
func TestProbesWithoutAPrimary(t *testing.T) {
	p := unprobed(t, 2)
	primary, replica := p.nodes[0], p.nodes[1]
	at := func() lsn.Position {
		replica.mu.Lock()
		defer replica.mu.Unlock()
		return replica.seen.pos
	}
	p.observe(primary, seen(1, true, 1, 100))
	p.observe(replica, seen(1, false, 1, 100))
	p.observe(replica, seen(1, false, 1, 150))
	if at().LSN != 150 {
		t.Errorf("with a primary: %v", at())
	}
	p.lost(primary, errLost)
	p.observe(replica, seen(1, false, 1, 200))
	if at().LSN != 150 {
		t.Errorf("without, and an unknown timeline: %v", at())
	}
	sure := seen(1, false, 1, 250)
	sure.sure = true
	p.observe(replica, sure)
	if at().LSN != 250 {
		t.Errorf("without, and its timeline: %v", at())
	}
	restarted := seen(1, false, 1, 300)
	restarted.id.start++
	p.observe(replica, restarted)
	if at().LSN != 0 {
		t.Errorf("another run, without a primary: %v", at())
	}
	promoted := seen(1, true, 1, 400)
	promoted.id.start += 2
	p.observe(primary, promoted)
	p.observe(replica, restarted)
	if at().LSN != 300 {
		t.Errorf("with a primary again: %v", at())
	}
}
