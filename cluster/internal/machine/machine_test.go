package machine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world carries out what a machine decides, with processes that exist only here, and checks after each step what must
// always hold.
type world struct {
	t        *testing.T
	m        *Machine
	now      time.Time
	alive    map[int]Worker // spawned and not exited
	drained  map[int]bool
	accepts  map[int][]int // slots that were adopted
	killed   map[int]bool
	held     map[int]bool // executables
	asked    map[string]bool
	finished map[string]error
	exit     *Exit
	closed   int
	spawnErr error
	trace    []string
}

func newWorld(t *testing.T, workers int) *world {
	return &world{
		t: t, now: epoch,
		m:     New(Config{Workers: workers, ReadyTimeout: time.Minute, MinHealthy: time.Second, Drain: 25 * time.Second, Stop: 30 * time.Second}),
		alive: map[int]Worker{}, drained: map[int]bool{}, accepts: map[int][]int{}, killed: map[int]bool{}, held: map[int]bool{0: true},
		asked: map[string]bool{}, finished: map[string]error{},
	}
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s\nafter\n  %s", fmt.Sprintf(format, args...), strings.Join(w.trace, "\n  "))
}

func (w *world) send(msg Message) {
	w.t.Helper()
	w.trace = append(w.trace, fmt.Sprintf("%v %T%+v", w.now.Sub(epoch), msg, msg))
	if r, ok := msg.(Reload); ok {
		w.asked[r.Op] = true
	}
	if e, ok := msg.(Exited); ok {
		delete(w.alive, e.ID)
	}
	queue := []Message{msg}
	for len(queue) > 0 {
		effects := w.m.Handle(w.now, queue[0])
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
	case Drain:
		if w.drained[e.ID] || w.killed[e.ID] {
			w.fatalf("worker %d drained after it was drained or killed", e.ID)
		}
		w.drained[e.ID] = true
		if e.Stopping != w.m.stopping {
			w.fatalf("Drain.Stopping is %v", e.Stopping)
		}
		// Reassign first, drain second.
		if cur := w.m.slots[w.alive[e.ID].Slot].Current; !e.Stopping && (cur == nil || cur.State != Ready) {
			w.fatalf("worker %d drains and its slot has nobody ready", e.ID)
		}
	case Adopt:
		if w.drained[e.ID] || w.killed[e.ID] {
			w.fatalf("worker %d adopts after it was drained or killed", e.ID)
		}
		w.accepts[e.ID] = e.Slots
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

// check holds after every step.
func (w *world) check() {
	w.t.Helper()
	if w.exit != nil {
		if len(w.alive) > 0 {
			w.fatalf("Exit with workers alive")
		}
		for op := range w.asked {
			if _, ok := w.finished[op]; !ok {
				w.fatalf("Exit and operation %q never finished", op)
			}
		}
		return
	}
	if !w.m.stopping {
		served, ready := map[int]int{}, 0
		for _, x := range w.m.workers {
			if _, alive := w.alive[x.ID]; !alive || x.State != Ready {
				continue
			}
			ready++
			for _, slot := range append([]int{x.Slot}, w.accepts[x.ID]...) {
				served[slot]++
			}
			if slices.Contains(w.accepts[x.ID], x.Slot) {
				w.fatalf("worker %d has adopted its own slot", x.ID)
			}
		}
		// While any worker is ready, also one that has not replaced its predecessor yet, every slot has an acceptor.
		for i := range w.m.slots {
			if served[i] == 0 && slices.ContainsFunc(w.m.slots, func(s *Slot) bool { return serves(s.Current) || serves(s.Incoming) }) {
				w.fatalf("nobody accepts for slot %d", i)
			}
		}
	}
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
			if x.State == Draining != slices.Contains(s.Draining, x) {
				w.fatalf("worker %d is %s and in the wrong place", x.ID, x.State)
			}
			if x.State == Starting || x.State == Draining {
				if x.deadline.IsZero() != w.killed[x.ID] {
					w.fatalf("worker %d is %s without a deadline, or was killed and has one", x.ID, x.State)
				}
			}
		}
		for _, x := range []*Worker{s.Current, s.Incoming} {
			if x != nil {
				acting++
			}
		}
		if w.m.booted && !w.m.stopping && s.Current == nil && s.Incoming == nil && s.Backoff.IsZero() {
			w.fatalf("slot %d is forgotten", i)
		}
	}
	if len(known) != len(w.m.workers) || len(known) != len(w.alive) {
		w.fatalf("%d workers in slots, %d known, %d alive", len(known), len(w.m.workers), len(w.alive))
	}
	if acting > len(w.m.slots)+1 {
		w.fatalf("%d workers act in %d slots", acting, len(w.m.slots))
	}
	if len(w.held) > len(w.m.slots)+2+len(w.alive) {
		w.fatalf("%d executables held", len(w.held))
	}
	if next := w.m.Next(); !next.IsZero() && !next.After(w.now) {
		w.fatalf("wants a Tick at %v, which is not ahead: it would spin", next.Sub(epoch))
	}
}

func (w *world) pass(d time.Duration) {
	w.t.Helper()
	end := w.now.Add(d)
	for {
		next := w.m.Next()
		if next.IsZero() || next.After(end) {
			w.now = end
			w.send(Tick{})
			return
		}
		w.now = next
		w.send(Tick{})
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
		if x := w.m.workers[id]; w.killed[id] || w.drained[id] || x.State == Starting {
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

func TestReloadReplacesOneSlotAfterTheOther(t *testing.T) {
	w := newWorld(t, 3).boot()
	w.send(Reload{Op: "a", Slot: -1})
	w.settle()
	if err, ok := w.finished["a"]; !ok || err != nil || w.versions() != "[1 1 1]" {
		w.fatalf("finished %v, %v, versions %s", ok, err, w.versions())
	}
	if len(w.held) != 1 {
		w.fatalf("executables held: %v", w.held)
	}
}

func TestReloadOfOneSlot(t *testing.T) {
	w := newWorld(t, 2).boot()
	w.send(Reload{Op: "a", Slot: 1})
	w.settle()
	w.send(Reload{Op: "b", Slot: 2})
	if w.versions() != "[0 1]" || w.finished["b"] == nil {
		w.fatalf("versions %s, slot 2: %v", w.versions(), w.finished["b"])
	}
}

func TestTheOldOneServesUntilTheNewOneHasBeenHealthy(t *testing.T) {
	w := newWorld(t, 1).boot()
	old := w.m.slots[0].Current.ID
	w.send(Reload{Op: "a", Slot: -1})
	w.send(IsReady{w.m.slots[0].Incoming.ID})
	w.pass(time.Second - 1)
	if w.drained[old] {
		w.fatalf("drained too early")
	}
	w.pass(1)
	if !w.drained[old] {
		w.fatalf("not drained")
	}
}

func TestABadVersionIsRolledBack(t *testing.T) {
	for name, fail := range map[string]func(w *world, in int){
		"exits":                func(w *world, in int) { w.send(Exited{in, "exit status 1"}) },
		"never ready":          func(w *world, in int) { w.pass(time.Minute) },
		"healthy for a moment": func(w *world, in int) { w.send(IsReady{in}); w.send(Exited{in, "signal: killed"}) },
	} {
		for slot := range 3 {
			t.Run(fmt.Sprintf("%s in slot %d", name, slot), func(t *testing.T) {
				w := newWorld(t, 3).boot()
				w.send(Reload{Op: "a", Slot: -1})
				for w.m.slots[slot].Incoming == nil {
					id, ok := w.next()
					if !ok {
						w.pass(time.Second)
					} else if w.drained[id] {
						w.send(Exited{id, "exit status 0"})
					} else {
						w.send(IsReady{id})
					}
				}
				fail(w, w.m.slots[slot].Incoming.ID)
				w.settle()
				if w.finished["a"] == nil || w.versions() != "[0 0 0]" {
					w.fatalf("finished with %v, versions %s", w.finished["a"], w.versions())
				}
			})
		}
	}
}

func TestASwappedWorkerThatDiesTakesTheReloadWithIt(t *testing.T) {
	w := newWorld(t, 2).boot()
	w.send(Reload{Op: "a", Slot: -1})
	w.send(IsReady{w.m.slots[0].Incoming.ID})
	w.pass(time.Second)
	w.send(Exited{w.m.slots[0].Current.ID, "signal: segmentation fault"})
	w.settle()
	if w.finished["a"] == nil || w.versions() != "[0 0]" {
		w.fatalf("finished with %v, versions %s", w.finished["a"], w.versions())
	}
}

func TestReloadsCoalesce(t *testing.T) {
	w := newWorld(t, 2).boot()
	for _, op := range []string{"a", "b", "c", "d"} {
		w.send(Reload{Op: op, Slot: -1})
	}
	w.settle()
	for _, op := range []string{"a", "b", "c", "d"} {
		if err, ok := w.finished[op]; !ok || err != nil {
			w.fatalf("%s: %v, %v", op, ok, err)
		}
	}
	// The first ran at once; the others saw an executable opened after they were asked for, and share it.
	if w.versions() != "[2 2]" {
		w.fatalf("versions %s", w.versions())
	}
}

func TestACrashIsRestartedWithGrowingDelay(t *testing.T) {
	w := newWorld(t, 2).boot()
	var last time.Duration
	for i := range 12 {
		w.send(Exited{w.m.slots[0].Current.ID, "exit status 2"})
		delay := w.m.slots[0].Backoff.Sub(w.now)
		if i == 0 && delay != minBackoff || delay < last || delay > maxBackoff {
			w.fatalf("crash %d: delay %v after %v", i, delay, last)
		}
		last = delay
		w.pass(delay)
	}
	if last != maxBackoff {
		w.fatalf("delay ends at %v", last)
	}
	w.send(IsReady{w.m.slots[0].Current.ID})
	w.pass(20 * time.Minute)
	w.send(Exited{w.m.slots[0].Current.ID, "exit status 2"})
	if d := w.m.slots[0].Backoff.Sub(w.now); d > 2*minBackoff {
		w.fatalf("after 20 good minutes the delay is %v", d)
	}
	if w.m.slots[0].Restarts != 12 {
		w.fatalf("%d restarts", w.m.slots[0].Restarts)
	}
}

func TestAServiceThatCannotBootEnds(t *testing.T) {
	for name, fail := range map[string]func(w *world){
		"exit":    func(w *world) { w.send(Exited{1, "exit status 1"}) },
		"timeout": func(w *world) { w.pass(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			w.send(Boot{})
			fail(w)
			w.settle()
			if w.exit == nil || w.exit.Err == nil {
				w.fatalf("exit %v", w.exit)
			}
		})
	}
	w := newWorld(t, 2)
	w.spawnErr = errors.New("no such file")
	w.send(Boot{})
	if w.exit == nil || w.exit.Err == nil {
		w.fatalf("exit %v", w.exit)
	}
}

func TestStopDuringAReload(t *testing.T) {
	w := newWorld(t, 2).boot()
	w.send(Reload{Op: "a", Slot: -1})
	w.send(Reload{Op: "b", Slot: -1})
	w.send(Stop{})
	w.settle()
	if !errors.Is(w.finished["a"], ErrStopping) || !errors.Is(w.finished["b"], ErrStopping) || w.exit == nil || w.exit.Err != nil {
		w.fatalf("a %v, b %v, exit %v", w.finished["a"], w.finished["b"], w.exit)
	}
}

func TestStopTwiceKills(t *testing.T) {
	w := newWorld(t, 2).boot()
	w.send(Stop{})
	w.send(Stop{})
	if len(w.killed) != 2 {
		w.fatalf("killed %v", w.killed)
	}
	w.settle()
	if w.exit == nil || w.exit.Err == nil {
		w.fatalf("exit %v", w.exit)
	}
}

func TestWhatDoesNotDrainIsKilled(t *testing.T) {
	w := newWorld(t, 1).boot()
	w.send(Stop{})
	w.pass(30 * time.Second)
	if len(w.killed) != 1 {
		w.fatalf("killed %v", w.killed)
	}
}

func TestReplaceKeepsTheVersion(t *testing.T) {
	w := newWorld(t, 2).boot()
	old := w.m.slots[1].Current.ID
	w.send(Replace{old})
	w.send(Replace{old})
	w.settle()
	if w.versions() != "[0 0]" || w.m.slots[1].generation != 2 || w.m.slots[0].generation != 1 {
		w.fatalf("versions %s, generations %d %d", w.versions(), w.m.slots[0].generation, w.m.slots[1].generation)
	}
}

func TestTheOldestOfManyDrainingIsCut(t *testing.T) {
	w := newWorld(t, 1).boot()
	first := w.m.slots[0].Current.ID
	for i := range maxDraining + 1 {
		w.send(Reload{Op: fmt.Sprint(i), Slot: -1})
		w.send(IsReady{w.m.slots[0].Incoming.ID})
		w.pass(time.Second)
	}
	if len(w.killed) != 1 || !w.killed[first] {
		w.fatalf("killed %v", w.killed)
	}
}

// Every message in whatever state random histories lead to, with what must always hold checked after each.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := newWorld(t, 1+r.IntN(3))
		w.trace = append(w.trace, fmt.Sprint("seed ", seed))
		w.send(Boot{})
		for step := 0; step < 120 && w.exit == nil; step++ {
			ids := slices.Sorted(mapKeys(w.alive))
			id := 99
			if len(ids) > 0 {
				id = ids[r.IntN(len(ids))]
			}
			w.spawnErr = nil
			if r.IntN(20) == 0 {
				w.spawnErr = errors.New("fork failed")
			}
			switch n := r.IntN(100); {
			case n < 40:
				w.send(IsReady{id})
			case n < 52:
				if id != 99 {
					w.send(Exited{id, "exit status 1"})
				}
			case n < 60:
				if id != 99 && (w.drained[id] || w.killed[id]) {
					w.send(Exited{id, "exit status 0"})
				}
			case n < 68:
				w.send(Reload{fmt.Sprint("op", step), r.IntN(len(w.m.slots)+2) - 1})
			case n < 73:
				w.send(Replace{id})
			case n < 74 && step > 40:
				w.send(Stop{})
			default:
				w.pass(time.Duration(r.ExpFloat64() * float64(2*time.Second)))
			}
		}
		w.spawnErr = nil
		if w.exit == nil {
			// Whatever has happened, a service whose workers behave again recovers.
			w.settle()
			w.pass(time.Minute)
			w.settle()
			for i, s := range w.m.slots {
				if w.exit == nil && !w.m.stopping && (s.Current == nil || s.Current.State != Ready) {
					w.fatalf("slot %d did not recover", i)
				}
			}
			if w.exit == nil {
				w.send(Stop{})
			}
			w.settle()
			if w.exit == nil {
				w.fatalf("did not end")
			}
		}
	}
}
