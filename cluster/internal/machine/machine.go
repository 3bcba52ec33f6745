// Package machine is the supervisor's mind: what happened goes in, what to do comes out. It starts no process, reads no
// clock and has no goroutine, so that everything it decides can be tested without any.
//
// A slot is active, or waits in backoff for its next worker, or is errored because too many crashed, or retired. A worker
// is starting, ready, suspect (silent), hung (silent for long) or draining. A roll replaces workers one slot at a time:
// reloads, replacements, scaling and upgrades are rolls, of which one is under way and others wait.
//
// What holds after every message: while any worker is ready, each slot has a ready one that accepts for it, its own or one
// that has adopted it.
package machine

import (
	"errors"
	"log/slog"
	"time"
)

// Config is what the machine goes by.
type Config struct {
	Workers      int
	ReadyTimeout time.Duration // from start to ready
	MinHealthy   time.Duration // ready, with passing checks, for that long before the predecessor drains
	Drain        time.Duration // from the order to drain to the kill, when a worker is replaced
	Stop         time.Duration // the same when everything stops
	AdoptAfter   time.Duration // of silence makes a worker suspect; 0 never
	HangTimeout  time.Duration // of silence makes it hung; 0 never
	SoftMemory   int64         // bytes above which a worker is replaced; 0 none
	HardMemory   int64         // bytes above which it is killed; 0 none
	Lifetime     time.Duration // of a worker, give or take a tenth; 0 without end
	OneByOne     bool          // a roll ends the old worker before it starts the new one, if another slot serves

	Room   func(need int64) bool // says whether there is memory for one more worker; nil means there is
	Jitter func() float64        // from 0 to 1; nil means a half
}

const (
	minBackoff   = 100 * time.Millisecond
	maxBackoff   = 30 * time.Second
	halfLife     = time.Minute // of readiness, for past crashes to count half
	maxCrashes   = 12          // recent ones; the next makes a slot errored
	erroredRetry = 5 * time.Minute
	maxDraining  = 4               // a slot; the oldest beyond that is cut
	quitGrace    = 2 * time.Second // for a hung worker to write down what its goroutines do
	askAgain     = time.Minute     // for a replacement that did not come about
	pause        = time.Second     // a message that is due and comes later than that: this process stood still
	maxSlots     = 256
)

// ErrStopping is how an operation ends that the end of the service overtook.
var ErrStopping = errors.New("the service is stopping")

// State is where a worker is in its life.
type State string

// The states of a worker.
const (
	Starting State = "starting"
	Ready    State = "ready"
	Suspect  State = "suspect"
	Hung     State = "hung"
	Draining State = "draining"
)

// Worker is one process.
type Worker struct {
	ID         int // unique
	Slot       int
	Generation int // counts the processes of the slot, from 1
	Version    int // of the executable
	PID        int // 0 until spawned
	State      State
	Started    time.Time
	ReadyAt    time.Time
	Memory     int64  // bytes, as last reported
	Failing    string // a readiness check, "" when all pass
	Sick       string // why the app says that it does not work

	Deadline time.Time // to be ready, or gone; zero when it has been killed
	Failed   string    // why it was killed
	Adopted  []int     // slots, ascending
	Beat     time.Time // of the latest sign of life
	Passing  time.Time // since when the checks pass
	Retire   time.Time // when its life is over
	Ask      time.Time // for a replacement at the earliest
}

// leaving says that nothing is expected of w but its exit.
func (w *Worker) leaving() bool { return w.State == Draining || w.State == Hung }

// up says that w has been ready and has not been told to go.
func (w *Worker) up() bool { return w.State == Ready || w.State == Suspect }

func serves(w *Worker) bool { return w != nil && w.State == Ready }

// Slot is a worker's stable place.
type Slot struct {
	Current  *Worker
	Incoming *Worker   // will take Current's place
	Draining []*Worker // on their way out, oldest first
	Restarts int       // processes that took the place of one that crashed
	LastExit string
	Backoff  time.Time // when the next process starts, if Current is nil and nothing is incoming
	Errored  bool      // Backoff is far away
	Retired  bool      // closed by scaling down; its socket stays

	Generation int
	Version    int     // of the executable that a restart uses
	Crashes    float64 // recent ones, fading with readiness
}

// empty says that there is no worker in the slot and nobody has to bring one.
func (s *Slot) empty() bool { return s.Current == nil && s.Incoming == nil }

// Machine holds the slots. It is not safe for concurrent use.
type Machine struct {
	cfg      Config
	now      time.Time
	expected time.Time // when a message had to come at the latest
	slots    []*Slot
	workers  map[int]*Worker
	lastID   int
	booted   bool // some worker has been ready
	stopping bool
	exited   bool
	err      error // that Exit will report

	versions map[int]bool // executables that are held
	version  int          // the newest
	settled  int          // that the last whole reload brought
	roll     *roll
	pending  []*request
	resumed  []string // operations that an upgrade has carried out
	out      []Effect
}

// New returns a machine with all its slots empty.
func New(cfg Config) *Machine {
	if cfg.Jitter == nil {
		cfg.Jitter = func() float64 { return 0.5 }
	}
	m := &Machine{cfg: cfg, workers: map[int]*Worker{}, versions: map[int]bool{0: true}}
	for range cfg.Workers {
		m.slots = append(m.slots, &Slot{})
	}
	return m
}

// Handle takes a message that came in at the time now, and returns what to do, in this order.
func (m *Machine) Handle(now time.Time, msg Message) []Effect {
	if m.exited {
		return nil
	}
	m.forgive(now)
	m.now, m.out = now, nil
	m.take(msg)
	m.expire()
	m.advance()
	m.adopt()
	m.release()
	if m.stopping && len(m.workers) == 0 {
		m.exited = true
		m.do(Exit{m.err})
	}
	m.expected = m.Next()
	return m.out
}

func (m *Machine) take(msg Message) {
	switch msg := msg.(type) {
	case Boot:
		for i := range m.slots {
			m.slots[i].Current = m.spawn(i, 0)
		}
	case Resume:
		m.resume()
	case Spawned:
		if w := m.workers[msg.ID]; w != nil {
			w.PID = msg.PID
		}
	case SpawnFailed:
		m.gone(msg.ID, "not started: "+msg.Err.Error())
	case IsReady:
		m.becameReady(msg.ID)
	case Beat:
		m.beat(msg.ID, msg.Sick)
	case Checks:
		m.checks(msg.ID, msg.Failing)
	case Memory:
		m.memory(msg.ID, msg.Bytes)
	case Exited:
		m.gone(msg.ID, msg.Status)
	case Reload:
		m.request(&request{Kind: reloading, Ops: []string{msg.Op}, Slot: msg.Slot})
	case Upgrade:
		m.request(&request{Kind: upgrading, Ops: []string{msg.Op}, Slot: -1})
	case Checked:
		m.checked(msg.Version, msg.Err)
	case ExecFailed:
		m.execFailed(msg.Err)
	case Scale:
		m.request(&request{Kind: scaling, Ops: []string{msg.Op}, Slot: -1, To: msg.To, By: msg.By})
	case Replace:
		m.replace(msg.ID)
	case Stop:
		m.stop(nil)
	case Tick:
	}
}

// Next is when the machine wants a Tick at the latest, or zero.
func (m *Machine) Next() time.Time {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	for _, w := range m.workers {
		sooner(w.Deadline)
		sooner(m.silenceEnds(w))
		if w.up() && !m.stopping {
			sooner(w.Retire)
		}
	}
	for i, s := range m.slots {
		if s.empty() && !m.stopping && !m.rolling(i) {
			sooner(s.Backoff)
		}
		if m.rolling(i) && serves(s.Incoming) {
			sooner(m.swapAt(s))
		}
	}
	return next
}

func (m *Machine) do(e Effect) { m.out = append(m.out, e) }

func (m *Machine) log(level slog.Level, text string, args ...any) {
	m.do(Log{level, text, args})
}

func (m *Machine) due(t time.Time) bool { return !t.IsZero() && !t.After(m.now) }

func (m *Machine) finish(ops []string, err error) {
	for _, op := range ops {
		if op != "" {
			m.do(Finish{op, err})
		}
	}
}

// open is how many slots are not retired. They are the first ones.
func (m *Machine) open() int {
	n := 0
	for _, s := range m.slots {
		if !s.Retired {
			n++
		}
	}
	return n
}
