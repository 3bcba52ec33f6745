package machine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Long histories of any messages at any time, with what must always hold checked after each.
func TestRandomHistories(t *testing.T) {
	for seed := range uint64(120) {
		synctest.Test(t, func(t *testing.T) { randomHistory(t, seed) })
	}
}

func randomHistory(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	cfg := config
	cfg.Workers = 1 + r.IntN(3)
	cfg.SoftMemory, cfg.HardMemory, cfg.Lifetime = 1000, 2000, time.Hour
	cfg.OneByOne = r.IntN(3) == 0
	w := newWorldOf(t, cfg)
	w.trace = append(w.trace, fmt.Sprint("seed ", seed))
	w.send(Boot{})
	for step := 0; step < 120 && w.exit == nil; step++ {
		w.randomStep(r, step)
	}
	w.spawnErr, w.checkErr, w.execErr, w.mute = nil, nil, nil, map[int]bool{}
	if w.exit != nil {
		return
	}
	// Whatever has happened, a service whose workers behave again recovers.
	for range 15 {
		w.settle()
		w.pass(time.Duration(1.3 * float64(maxBackoff)))
	}
	w.settle()
	for i, s := range w.m.slots {
		if w.exit == nil && !w.m.stopping && !s.Retired && !serves(s.Current) {
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

func (w *world) randomStep(r *rand.Rand, step int) {
	ids := slices.Sorted(mapKeys(w.alive))
	id := 99
	if len(ids) > 0 {
		id = ids[r.IntN(len(ids))]
	}
	sometimes := func(n int, text string) error {
		if r.IntN(n) == 0 {
			return errors.New(text)
		}
		return nil
	}
	w.spawnErr, w.checkErr, w.execErr = sometimes(20, "fork failed"), sometimes(4, "no"), sometimes(4, "exec failed")
	op := fmt.Sprint("op", step)
	switch n := r.IntN(100); {
	case n < 35:
		w.send(IsReady{id})
	case n < 43 && id != 99:
		w.send(Exited{id, "exit status 1"})
	case n < 54 && (w.drained[id] || w.killed[id] || w.quit[id]):
		w.send(Exited{id, "exit status 0"})
	case n < 60:
		w.send(Reload{op, r.IntN(len(w.m.slots)+2) - 1})
	case n < 64:
		w.send(Upgrade{op})
	case n < 68:
		w.send(Scale{Op: op, To: r.IntN(5), By: r.IntN(3) - 1})
	case n < 71:
		w.send(Replace{id})
	case n < 75:
		w.send(Checks{id, []string{"", "db"}[r.IntN(2)]})
	case n < 77:
		w.send(Memory{id, int64(r.IntN(2500))})
	case n < 81:
		w.mute[id] = !w.mute[id]
	case n < 82:
		time.Sleep(time.Duration(r.IntN(int(20 * time.Second)))) // this process stands still
		w.send(Tick{})
	case n < 83 && step > 60:
		w.send(Stop{})
	default:
		w.pass(time.Duration(r.ExpFloat64() * float64(2*time.Second)))
	}
}
