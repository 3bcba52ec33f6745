package cluster

import (
	"slices"
	"sync"
	"time"
)

const keptExits = 4 // a slot

// exit is the end of a worker, as clusterctl shows it.
type exit struct {
	Slot       int       `json:"slot"`
	Generation int       `json:"generation"`
	PID        int       `json:"pid"`
	InstanceID string    `json:"instance_id"`
	Time       time.Time `json:"time"`
	Status     string    `json:"status"`
	OK         bool      `json:"ok"`               // status 0
	Reason     string    `json:"reason,omitempty"` // the first line of a panic, fatal error or dump

	// The last words of one that was not OK. Crash is the beginning of what the runtime wrote as it crashed, up to 64 KB;
	// Stderr is standard error from the line that begins with "panic:", "fatal error:" or "SIGQUIT:", up to 16 KB; Tail is
	// the end of standard error, up to 16 KB.
	Crash  string `json:"crash,omitempty"`
	Stderr string `json:"stderr,omitempty"`
	Tail   string `json:"tail,omitempty"`
}

// exits are the latest ends of workers.
type exits struct {
	mu  sync.Mutex
	all []exit // oldest first
}

func (x *exits) add(e exit) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all = append(x.all, e)
	n := 0
	for i := len(x.all) - 1; i >= 0; i-- {
		if x.all[i].Slot != e.Slot {
			continue
		}
		if n++; n > keptExits {
			x.all = slices.Delete(x.all, i, i+1)
		}
	}
}

// of are the ends of a slot's workers, or of all if it is negative.
func (x *exits) of(slot int) []exit {
	x.mu.Lock()
	defer x.mu.Unlock()
	found := []exit{}
	for _, e := range x.all {
		if slot < 0 || e.Slot == slot {
			found = append(found, e)
		}
	}
	return found
}
