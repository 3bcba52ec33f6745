package machine

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestReloadReplacesOneSlotAfterTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3).boot()
		w.send(Reload{Op: "a", Slot: -1})
		w.settle()
		if err, ok := w.finished["a"]; !ok || err != nil || w.versions() != "[1 1 1]" {
			w.fatalf("finished %v, %v, versions %s", ok, err, w.versions())
		}
		if len(w.held) != 1 {
			w.fatalf("executables held: %v", w.held)
		}
	})
}

func TestReloadOfOneSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2).boot()
		w.send(Reload{Op: "a", Slot: 1})
		w.settle()
		w.send(Reload{Op: "b", Slot: 2})
		if w.versions() != "[0 1]" || w.finished["b"] == nil {
			w.fatalf("versions %s, slot 2: %v", w.versions(), w.finished["b"])
		}
	})
}

func TestTheOldOneServesUntilTheNewOneHasBeenHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}

func TestABadVersionIsRolledBack(t *testing.T) {
	for name, fail := range map[string]func(w *world, in int){
		"exits":                func(w *world, in int) { w.send(Exited{in, "exit status 1"}) },
		"never ready":          func(w *world, in int) { w.pass(time.Minute) },
		"healthy for a moment": func(w *world, in int) { w.send(IsReady{in}); w.send(Exited{in, "signal: killed"}) },
	} {
		for slot := range 3 {
			t.Run(fmt.Sprintf("%s in slot %d", name, slot), bubble(func(t *testing.T) {
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
			}))
		}
	}
}

func TestASwappedWorkerThatDiesTakesTheReloadWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2).boot()
		w.send(Reload{Op: "a", Slot: -1})
		w.send(IsReady{w.m.slots[0].Incoming.ID})
		w.pass(time.Second)
		w.send(Exited{w.m.slots[0].Current.ID, "signal: segmentation fault"})
		w.settle()
		if w.finished["a"] == nil || w.versions() != "[0 0]" {
			w.fatalf("finished with %v, versions %s", w.finished["a"], w.versions())
		}
	})
}

func TestReloadsCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}

func TestACrashIsRestartedWithGrowingDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2).boot()
		var last time.Duration
		for i := range 12 {
			w.send(Exited{w.m.slots[0].Current.ID, "exit status 2"})
			delay := time.Until(w.m.slots[0].Backoff)
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
		if d := time.Until(w.m.slots[0].Backoff); d > 2*minBackoff {
			w.fatalf("after 20 good minutes the delay is %v", d)
		}
		if w.m.slots[0].Restarts != 12 {
			w.fatalf("%d restarts", w.m.slots[0].Restarts)
		}
	})
}

func TestAServiceThatCannotBootEnds(t *testing.T) {
	for name, fail := range map[string]func(w *world){
		"exit":    func(w *world) { w.send(Exited{1, "exit status 1"}) },
		"timeout": func(w *world) { w.pass(time.Minute) },
	} {
		t.Run(name, bubble(func(t *testing.T) {
			w := newWorld(t, 2)
			w.send(Boot{})
			fail(w)
			w.settle()
			if w.exit == nil || w.exit.Err == nil {
				w.fatalf("exit %v", w.exit)
			}
		}))
	}
	t.Run("spawn", bubble(func(t *testing.T) {
		w := newWorld(t, 2)
		w.spawnErr = errors.New("no such file")
		w.send(Boot{})
		if w.exit == nil || w.exit.Err == nil {
			w.fatalf("exit %v", w.exit)
		}
	}))
}

func TestStopDuringAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2).boot()
		w.send(Reload{Op: "a", Slot: -1})
		w.send(Reload{Op: "b", Slot: -1})
		w.send(Stop{})
		w.settle()
		if !errors.Is(w.finished["a"], ErrStopping) || !errors.Is(w.finished["b"], ErrStopping) || w.exit == nil || w.exit.Err != nil {
			w.fatalf("a %v, b %v, exit %v", w.finished["a"], w.finished["b"], w.exit)
		}
	})
}

func TestStopTwiceKills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}

func TestWhatDoesNotDrainIsKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1).boot()
		w.send(Stop{})
		w.pass(30 * time.Second)
		if len(w.killed) != 1 {
			w.fatalf("killed %v", w.killed)
		}
	})
}

func TestReplaceKeepsTheVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2).boot()
		old := w.m.slots[1].Current.ID
		w.send(Replace{old})
		w.send(Replace{old})
		w.settle()
		if w.versions() != "[0 0]" || w.m.slots[1].Generation != 2 || w.m.slots[0].Generation != 1 {
			w.fatalf("versions %s, generations %d %d", w.versions(), w.m.slots[0].Generation, w.m.slots[1].Generation)
		}
	})
}

func TestTheOldestOfManyDrainingIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
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
	})
}
