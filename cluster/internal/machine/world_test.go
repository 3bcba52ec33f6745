package machine

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// world carries out what a machine decides, with processes that exist only here, and checks after each step what must
// always hold. It lives in a synctest bubble: time passes when everybody waits.
type world struct {
	t        *testing.T
	cfg      Config
	m        *Machine
	began    time.Time
	alive    map[int]Worker // spawned and not exited
	mute     map[int]bool   // they live and give no sign of it
	ready    map[int]bool   // they have said so
	drained  map[int]bool
	accepts  map[int][]int // slots that were adopted
	killed   map[int]bool
	quit     map[int]bool
	held     map[int]bool // executables
	size     int
	asked    map[string]bool
	finished map[string]error
	exit     *Exit
	closed   int
	spawnErr error
	checkErr error
	execErr  error
	hold     bool // does not answer Check and Exec by itself
	checking int  // version that was to be checked
	execs    int
	trace    []string
}

var config = Config{
	ReadyTimeout: time.Minute, MinHealthy: time.Second, Drain: 25 * time.Second, Stop: 30 * time.Second,
	AdoptAfter: 1500 * time.Millisecond, HangTimeout: 10 * time.Second,
}

func newWorld(t *testing.T, workers int) *world {
	cfg := config
	cfg.Workers = workers
	return newWorldOf(t, cfg)
}

func newWorldOf(t *testing.T, cfg Config) *world {
	return &world{
		t: t, cfg: cfg, m: New(cfg), began: time.Now(), size: cfg.Workers,
		alive: map[int]Worker{}, mute: map[int]bool{}, ready: map[int]bool{}, drained: map[int]bool{}, accepts: map[int][]int{}, killed: map[int]bool{},
		quit: map[int]bool{}, held: map[int]bool{0: true}, asked: map[string]bool{}, finished: map[string]error{},
	}
}

// bubble is f in a synctest bubble of its own.
func bubble(f func(t *testing.T)) func(t *testing.T) {
	return func(t *testing.T) { synctest.Test(t, f) }
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\nafter\n  %s", fmt.Sprintf(format, args...), strings.Join(w.trace, "\n  "))
}

func (w *world) send(msg Message) {
	w.t.Helper()
	switch msg := msg.(type) {
	case Beat:
	default:
		w.trace = append(w.trace, fmt.Sprintf("%v %T%+v", time.Since(w.began), msg, msg))
	}
	switch msg := msg.(type) {
	case Reload:
		w.asked[msg.Op] = true
	case Upgrade:
		w.asked[msg.Op] = true
	case Scale:
		w.asked[msg.Op] = true
	case IsReady:
		if x, ok := w.alive[msg.ID]; ok && w.m.workers[x.ID].State == Starting {
			w.ready[msg.ID] = true
		}
	case Exited:
		delete(w.alive, msg.ID)
	}
	queue := []Message{msg}
	for len(queue) > 0 {
		effects := w.m.Handle(time.Now(), queue[0])
		queue = queue[1:]
		for _, e := range effects {
			queue = append(queue, w.carryOut(e)...)
		}
	}
	w.check()
}

func (w *world) carryOut(e Effect) []Message {
	w.t.Helper()
	if w.exit != nil {
		w.fatalf("%T after Exit", e)
	}
	if _, ok := e.(Log); !ok {
		w.trace = append(w.trace, fmt.Sprintf("    -> %T%+v", e, e))
	}
	switch e := e.(type) {
	case Spawn:
		return w.spawn(e)
	case Drain:
		if w.drained[e.ID] || w.killed[e.ID] || w.quit[e.ID] {
			w.fatalf("worker %d drained after it was drained, told to quit or killed", e.ID)
		}
		w.drained[e.ID] = true
		if e.Stopping != w.m.stopping {
			w.fatalf("Drain.Stopping is %v", e.Stopping)
		}
		// Reassign first, drain second. Not by the machine's word: it has decided on what follows too.
		if !e.Stopping {
			w.served(w.alive[e.ID].Slot, func(x Worker) bool { return w.ready[x.ID] && !w.killed[x.ID] && !w.quit[x.ID] })
		}
	case Adopt:
		if w.drained[e.ID] || w.killed[e.ID] || w.quit[e.ID] {
			w.fatalf("worker %d adopts after it was drained, told to quit or killed", e.ID)
		}
		w.accepts[e.ID] = e.Slots
	case Resize:
		w.size = e.Workers
	case Quit:
		if w.quit[e.ID] || w.killed[e.ID] {
			w.fatalf("worker %d told to quit twice", e.ID)
		}
		w.quit[e.ID] = true
	case Kill:
		if w.killed[e.ID] {
			w.fatalf("worker %d killed twice", e.ID)
		}
		w.killed[e.ID] = true
	case Open:
		w.held[e.Version] = true
	case Release:
		if !w.held[e.Version] {
			w.fatalf("released %d, which is not held", e.Version)
		}
		delete(w.held, e.Version)
	case Check:
		w.checking = e.Version
		if !w.held[e.Version] {
			w.fatalf("checks %d, which is not held", e.Version)
		}
		if !w.hold {
			return []Message{Checked{e.Version, w.checkErr}}
		}
	case Exec:
		if !w.held[e.Version] {
			w.fatalf("executes %d, which is not held", e.Version)
		}
		if !w.hold {
			return w.exec()
		}
	case Finish:
		if _, ok := w.finished[e.Op]; ok || !w.asked[e.Op] {
			w.fatalf("operation %q finished twice, or never asked for", e.Op)
		}
		w.finished[e.Op] = e.Err
	case CloseSockets:
		w.closed++
	case Exit:
		w.exit = &e
	}
	return nil
}

func (w *world) spawn(e Spawn) []Message {
	w.t.Helper()
	if _, ok := w.alive[e.Worker.ID]; ok {
		w.fatalf("worker %d spawned twice", e.Worker.ID)
	}
	if !w.held[e.Worker.Version] {
		w.fatalf("spawned from executable %d, which is not held", e.Worker.Version)
	}
	if w.closed > 0 {
		w.fatalf("spawned without sockets")
	}
	if w.spawnErr != nil {
		return []Message{SpawnFailed{e.Worker.ID, w.spawnErr}}
	}
	w.alive[e.Worker.ID] = e.Worker
	return []Message{Spawned{e.Worker.ID, 1000 + e.Worker.ID}}
}

// exec replaces the machine by what the next executable makes of its state.
func (w *world) exec() []Message {
	w.t.Helper()
	if w.execErr != nil {
		return []Message{ExecFailed{w.execErr}}
	}
	st, err := w.m.State()
	if err != nil {
		return nil // overtaken
	}
	if w.m, err = Restore(w.cfg, st); err != nil {
		w.fatalf("restore: %v", err)
	}
	w.execs++
	return []Message{Resume{}}
}

// served fails if nobody that is ready accepts for a slot although there is somebody who could.
func (w *world) served(slot int, ready func(Worker) bool) {
	w.t.Helper()
	able := false
	for _, x := range w.alive {
		if !ready(x) || w.drained[x.ID] {
			continue
		}
		able = true
		if x.Slot == slot || slices.Contains(w.accepts[x.ID], slot) {
			return
		}
	}
	if able {
		w.fatalf("nobody accepts for slot %d", slot)
	}
}

// check holds after every step.
func (w *world) check() {
	w.t.Helper()
	if w.exit != nil {
		if len(w.alive) > 0 {
			w.fatalf("Exit with workers alive")
		}
		for op := range w.asked {
			if _, ok := w.finished[op]; !ok && op != "" {
				w.fatalf("Exit and operation %q never finished", op)
			}
		}
		return
	}
	if !w.m.stopping {
		for i := range w.m.slots {
			w.served(i, func(x Worker) bool { return w.m.workers[x.ID].State == Ready })
		}
	}
	w.checkSlots()
	if len(w.held) > len(w.m.slots)+3+len(w.alive) {
		w.fatalf("%d executables held", len(w.held))
	}
	if next := w.m.Next(); !next.IsZero() && !next.After(time.Now()) {
		w.fatalf("wants a Tick at %v, which is not ahead: it would spin", next.Sub(w.began))
	}
}

func (w *world) checkSlots() {
	w.t.Helper()
	known := map[int]bool{}
	acting := 0
	for i, s := range w.m.slots {
		for _, x := range append([]*Worker{s.Current, s.Incoming}, s.Draining...) {
			if x == nil {
				continue
			}
			if known[x.ID] || x.Slot != i || w.m.workers[x.ID] != x {
				w.fatalf("worker %d is twice in its slot, in a wrong one, or forgotten", x.ID)
			}
			known[x.ID] = true
			if x.leaving() != slices.Contains(s.Draining, x) {
				w.fatalf("worker %d is %s and in the wrong place", x.ID, x.State)
			}
			if slices.Contains(x.Adopted, x.Slot) {
				w.fatalf("worker %d has adopted its own slot", x.ID)
			}
			if x.State == Starting || x.leaving() {
				if x.Deadline.IsZero() != w.killed[x.ID] {
					w.fatalf("worker %d is %s without a deadline, or was killed and has one", x.ID, x.State)
				}
			}
			if x.State == Hung && !w.quit[x.ID] {
				w.fatalf("worker %d is hung and nobody asked it why", x.ID)
			}
		}
		for _, x := range []*Worker{s.Current, s.Incoming} {
			if x != nil {
				acting++
			}
		}
		if s.Retired && !s.empty() {
			w.fatalf("slot %d is retired and has a worker", i)
		}
		if s.Retired && i < w.m.open() {
			w.fatalf("slot %d is retired before others that are not", i)
		}
		if w.m.booted && !w.m.stopping && !s.Retired && s.empty() && s.Backoff.IsZero() && !w.m.rolling(i) {
			w.fatalf("slot %d is forgotten", i)
		}
	}
	if len(known) != len(w.m.workers) || len(known) != len(w.alive) {
		w.fatalf("%d workers in slots, %d known, %d alive", len(known), len(w.m.workers), len(w.alive))
	}
	if acting > w.m.open()+1 {
		w.fatalf("%d workers act in %d slots", acting, w.m.open())
	}
	if w.m.roll == nil && !w.m.stopping && w.size != w.m.open() {
		w.fatalf("%d slots share the machine as if they were %d", w.m.open(), w.size)
	}
}

// pass lets time go by. All that live and are not mute give their signs of life.
func (w *world) pass(d time.Duration) {
	w.t.Helper()
	end := time.Now().Add(d)
	beat := time.Now()
	for {
		at := end
		if next := w.m.Next(); !next.IsZero() && next.Before(at) {
			at = next
		}
		if beat.Before(at) {
			at = beat
		}
		time.Sleep(time.Until(at))
		if !time.Now().Before(beat) {
			for _, id := range slices.Sorted(mapKeys(w.alive)) {
				if !w.mute[id] && w.exit == nil {
					w.send(Beat{ID: id})
				}
			}
			beat = time.Now().Add(500 * time.Millisecond)
		}
		if w.exit == nil {
			w.send(Tick{})
		}
		if !time.Now().Before(end) {
			return
		}
	}
}

func (w *world) boot() *world {
	w.t.Helper()
	w.send(Boot{})
	for i := range w.m.slots {
		w.send(IsReady{w.m.slots[i].Current.ID})
	}
	return w
}

// settle lets every worker do as it is told until nothing changes.
func (w *world) settle() {
	w.t.Helper()
	for range 1000 {
		id, ok := w.next()
		switch {
		case !ok && w.m.roll == nil && len(w.m.pending) == 0:
			return
		case !ok:
			w.pass(time.Second)
		case w.killed[id]:
			w.send(Exited{id, "signal: killed"})
		case w.quit[id]:
			w.send(Exited{id, "exit status 2"})
		case w.drained[id]:
			w.send(Exited{id, "exit status 0"})
		default:
			w.send(IsReady{id})
		}
	}
	w.fatalf("does not settle")
}

// next is a worker that has something to do.
func (w *world) next() (int, bool) {
	ids := slices.Sorted(mapKeys(w.alive))
	for _, id := range ids {
		if x := w.m.workers[id]; w.killed[id] || w.drained[id] || w.quit[id] || x.State == Starting {
			return id, true
		}
	}
	return 0, false
}

func (w *world) versions() string {
	var v []int
	for _, s := range w.m.slots {
		if s.Current == nil {
			v = append(v, -1)
			continue
		}
		v = append(v, s.Current.Version)
	}
	return fmt.Sprint(v)
}
