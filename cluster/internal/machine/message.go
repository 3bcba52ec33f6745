package machine

import (
	"log/slog"
	"slices"
	"time"
)

// Message is something that happened.
type Message interface{ message() }

type (
	// Boot starts everything. It comes first and once.
	Boot struct{}
	// Spawned and SpawnFailed tell what became of a Spawn.
	Spawned struct{ ID, PID int }
	// SpawnFailed: see Spawned.
	SpawnFailed struct {
		ID  int
		Err error
	}
	// IsReady: the worker says that it serves.
	IsReady struct{ ID int }
	// Exited: the process has ended.
	Exited struct {
		ID     int
		Status string
	}
	// Reload asks for new workers from the executable as it is now, in one slot or, if that is negative, in all. Finish
	// with the same Op tells how it went.
	Reload struct {
		Op   string
		Slot int
	}
	// Upgrade asks for new workers from the executable as it is now and, when they are healthy, to execute it in the place
	// of this process.
	Upgrade struct{ Op string }
	// Checked: what the executable says when it is asked whether it can take over.
	Checked struct {
		Version int
		Err     error
	}
	// ExecFailed: an Exec has not taken place.
	ExecFailed struct{ Err error }
	// Resume comes first, instead of Boot, after an upgrade.
	Resume struct{}
	// Scale asks for another number of slots: To, or if By is not 0 so many more or less.
	Scale struct {
		Op     string
		To, By int
	}
	// Beat is a sign of life. Sick is why the app says that it does not work, in spite of that.
	Beat struct {
		ID   int
		Sick string
	}
	// Checks: a readiness check that fails, or "" when all pass.
	Checks struct {
		ID      int
		Failing string
	}
	// Memory: how much the worker has.
	Memory struct {
		ID    int
		Bytes int64
	}
	// Replace asks for a successor of one worker, from the executable that its slot runs.
	Replace struct{ ID int }
	// Stop ends everything: gracefully, and at once if it comes again.
	Stop struct{}
	// Tick: time has passed.
	Tick struct{}
)

func (Boot) message()        {}
func (Spawned) message()     {}
func (SpawnFailed) message() {}
func (IsReady) message()     {}
func (Exited) message()      {}
func (Reload) message()      {}
func (Upgrade) message()     {}
func (Checked) message()     {}
func (ExecFailed) message()  {}
func (Resume) message()      {}
func (Scale) message()       {}
func (Beat) message()        {}
func (Checks) message()      {}
func (Memory) message()      {}
func (Replace) message()     {}
func (Stop) message()        {}
func (Tick) message()        {}

// Effect is something to do.
type Effect interface{ effect() }

type (
	// Spawn starts a process; Spawned or SpawnFailed must follow.
	Spawn struct{ Worker Worker }
	// Drain tells a worker to finish and exit. Stopping says that nobody takes over.
	Drain struct {
		ID       int
		Stopping bool
	}
	// Adopt tells a worker for which slots it is to accept connections besides its own: those that have nobody who serves.
	Adopt struct {
		ID    int
		Slots []int
	}
	// Resize tells how many workers there will be, which share the machine.
	Resize struct{ Workers int }
	// Quit has a hung process write down what its goroutines do, and end.
	Quit struct{ ID int }
	// Kill ends a process at once.
	Kill struct{ ID int }
	// Open takes hold of the executable as it is now, under that number; Release lets it go.
	Open struct{ Version int }
	// Release: see Open.
	Release struct{ Version int }
	// Check asks the executable of that number whether it can take over. Checked must follow.
	Check struct{ Version int }
	// Exec has this process execute it, with the machine's State. If it fails, ExecFailed must follow, or nothing if there is
	// no State any more.
	Exec struct{ Version int }
	// Finish tells whoever asked for an operation how it went.
	Finish struct {
		Op  string
		Err error
	}
	// CloseSockets gives up the supervisor's hold on the listening sockets, so that new connections are refused, and not
	// left waiting, once the workers have stopped accepting.
	CloseSockets struct{}
	// Log is for people.
	Log struct {
		Level slog.Level
		Text  string
		Args  []any
	}
	// Exit ends the supervisor. Nothing comes after it.
	Exit struct{ Err error }
)

func (Spawn) effect()        {}
func (Drain) effect()        {}
func (Adopt) effect()        {}
func (Resize) effect()       {}
func (Quit) effect()         {}
func (Kill) effect()         {}
func (Check) effect()        {}
func (Exec) effect()         {}
func (Open) effect()         {}
func (Release) effect()      {}
func (Finish) effect()       {}
func (CloseSockets) effect() {}
func (Log) effect()          {}
func (Exit) effect()         {}

// Status is a copy of what the machine knows.
type Status struct {
	Booted   bool
	Stopping bool
	Rolling  bool // a reload, replacement, upgrade or change of scale is under way
	Open     int  // slots that are not retired; they come first
	Slots    []SlotStatus
}

// SlotStatus is a slot and its workers: the current one, the incoming one, then those that drain.
type SlotStatus struct {
	State    string // active, backoff, errored, retired
	Workers  []Worker
	Restarts int
	LastExit string
	Backoff  time.Time // zero unless the slot waits for a restart
}

// Status returns a copy.
func (m *Machine) Status() Status {
	st := Status{Booted: m.booted, Stopping: m.stopping, Rolling: m.roll != nil, Open: m.open()}
	for _, s := range m.slots {
		out := SlotStatus{State: "active", Restarts: s.Restarts, LastExit: s.LastExit}
		switch {
		case s.Retired:
			out.State = "retired"
		case s.empty() && !m.stopping && !s.Backoff.IsZero():
			out.State, out.Backoff = "backoff", s.Backoff
			if s.Errored {
				out.State = "errored"
			}
		}
		for _, w := range append([]*Worker{s.Current, s.Incoming}, slices.Clone(s.Draining)...) {
			if w != nil {
				out.Workers = append(out.Workers, *w)
			}
		}
		st.Slots = append(st.Slots, out)
	}
	return st
}
