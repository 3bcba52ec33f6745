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
	for _, c := range []struct {
		name     string
		guard    guardRow
		conn     identity
		timeline uint32
		want     error
	}{
		{"far enough", guardRow{replica: true, position: &ahead, committed: true}, run, 1, nil},
		{"behind", guardRow{replica: true, position: &behind, committed: true}, run, 1, errShort},
		{"nothing replayed", guardRow{replica: true, committed: true}, run, 1, errShort},
		{"one snapshot for the whole transaction", guardRow{replica: true, position: &ahead}, run, 1, errShort},
		{"another run of the server", guardRow{replica: true, position: &ahead, committed: true}, other, 1, errRole},
		{"promoted", guardRow{position: &ahead, committed: true}, run, 1, errRole},
		{"another timeline", guardRow{replica: true, position: &ahead, committed: true}, run, 2, errShort},
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
