//go:build soak

package overload

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fairlead/fairlead/internal/loadsim"
)

// spans measures between successive cuts and prints what it found.
func spansOf(t *testing.T, name string, r *loadsim.Result, capacity float64, cuts ...time.Duration) []span {
	t.Helper()
	var spans []span
	text := "soak: " + name + ":"
	for i, to := range cuts[1:] {
		s := measure(r, capacity, cuts[i], to)
		spans = append(spans, s)
		text += fmt.Sprintf(" | %v-%v %v", cuts[i], to, s)
	}
	t.Log(text)
	return spans
}

func TestSoakASpikePassesAndNothingIsRefusedAfterwards(t *testing.T) {
	spike := func(at time.Duration) float64 {
		if at >= 4*second && at < 7*second {
			return 10
		}
		return 0.8
	}
	for _, test := range []struct {
		service
		limiters int
	}{{ioConstant, 1}, {cpuConstant, 1}, {cpuConstant, 4}} {
		name := fmt.Sprintf("%s, %d limiters", test.name, test.limiters)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t, test.service, ours, test.limiters, loadsim.Load{Rate: spike, For: 12 * second, Seed: 3}, nil)
			spans := spansOf(t, name, r, test.capacity, second, 4*second, 5*second, 7*second, 8*second, 12*second)
			if before := spans[0]; before.refused > 0.5 {
				t.Errorf("before the spike %.2f %% refused", before.refused)
			}
			if during := spans[2]; during.goodput < 92 {
				t.Errorf("from the second second of the spike %.1f %% of C", during.goodput)
			}
			if after := spans[4]; after.Refused > 0 || after.Late > 0 {
				t.Errorf("from a second after the spike %d refused, %d late: want none", after.Refused, after.Late)
			}
		})
	}
}

// A processor that was never seen idle is harder than slots: its base time shows only once the limit has been lowered,
// and how long that takes depends on the arrivals.
func TestSoakColdStartAtTenTimesTheCapacity(t *testing.T) {
	for _, sv := range []service{ioConstant, cpuConstant} {
		t.Run(sv.name, func(t *testing.T) {
			t.Parallel()
			r := run(t, sv, ours, 1, loadsim.Load{Rate: loadsim.Constant(10), For: 5 * second, Seed: 3}, nil)
			spans := spansOf(t, sv.name, r, sv.capacity, 0, second, 2*second, 3*second, 5*second)
			for i, least := range map[string][]float64{ioConstant.name: {95, 95, 93, 93}, cpuConstant.name: {0, 0, 0, 70}}[sv.name] {
				if spans[i].goodput < least {
					t.Errorf("span %d: %.1f %% of C: want at least %v", i, spans[i].goodput, least)
				}
			}
		})
	}
}

// At 4 s half of the capacity goes, at 10 s it returns.
func TestSoakCapacityHalved(t *testing.T) {
	for _, test := range []struct {
		name string
		service
		load float64
		set  func(s simulated, share float64)
	}{
		{"4 of 8 slots", ioConstant, 0.8, func(s simulated, share float64) { s.(*loadsim.Slots).Set(int(8 * share)) }},
		{"everything takes twice as long", ioConstant, 0.8, func(s simulated, share float64) { s.(*loadsim.Slots).Slow(1 / share) }},
		{"1 of 2 cores", cpuConstant, 0.8, func(s simulated, share float64) { s.(*loadsim.CPU).Set(2 * share) }},
		{"1 of 2 cores at 3 C", cpuConstant, 3, func(s simulated, share float64) { s.(*loadsim.CPU).Set(2 * share) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := run(t, test.service, ours, 1, loadsim.Load{Rate: loadsim.Constant(test.load), For: 14 * second, Seed: 3},
				func(s simulated) {
					time.Sleep(4 * second)
					test.set(s, 0.5)
					time.Sleep(6 * second)
					test.set(s, 1)
				})
			spans := spansOf(t, test.name, r, test.capacity, second, 4*second, 5*second, 10*second, 11*second, 14*second)
			if half := spans[2].goodput; half < 0.95*50 {
				t.Errorf("from a second after the loss %.1f %% of the old C: want 95 %% of the half", half)
			}
			switch after := spans[4]; {
			case test.load < 1 && after.Refused > 0:
				t.Errorf("from a second after the return %d refused", after.Refused)
			case test.load > 1 && after.goodput < 95:
				t.Errorf("from a second after the return %.1f %% of C", after.goodput)
			}
		})
	}
}

// A dependency that has become ten times as slow must not be taken for a queue inside for long, or the limit sinks to where
// little is left of the throughput. Its clients are patient, so that late answers do not tell.
func TestSoakAServiceThatSlowsDownIsLearnedAnew(t *testing.T) {
	for _, load := range []float64{0.8, 3} {
		name := fmt.Sprintf("%v C", load)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := run(t, ioConstant, ours, 1, loadsim.Load{Rate: loadsim.Constant(load), For: 16 * second, Patience: 3 * second, Seed: 3},
				func(s simulated) {
					time.Sleep(3 * second)
					s.(*loadsim.Slots).Slow(10)
				})
			spans := spansOf(t, name, r, ioConstant.capacity, second, 3*second, 5*second, 8*second, 12*second, 16*second)
			if got := spans[4].goodput; got < 8 {
				t.Errorf("from nine seconds after it slowed down %.1f %% of the old C: want 80 %% of a tenth", got)
			}
		})
	}
}

func TestSoakCriticalRequestsPassWhileTenTimesTheCapacityIsOffered(t *testing.T) {
	t.Parallel()
	const critical, sheddable = 2, 0
	byClass := guard{"priorities", knees(Options{Priority: func(r *http.Request) Priority {
		if classOf(r) == critical {
			return Critical
		}
		return Sheddable
	}}).make}
	r := run(t, ioConstant, byClass, 1, loadsim.Load{Rate: loadsim.Constant(10), For: 5 * second, Seed: 1,
		Class: func(r *rand.Rand) int {
			if r.Float64() < 0.05 { // 0.5 C
				return critical
			}
			return sheddable
		}}, nil)
	c := r.Between(2*second, 5*second, func(class int) bool { return class == critical })
	all := measure(r, ioConstant.capacity, 2*second, 5*second)
	t.Logf("soak: critical: %+v; all: %v", c, all)
	if float64(c.Good) < 0.995*float64(c.Offered) {
		t.Errorf("%d of %d critical requests were good", c.Good, c.Offered)
	}
	if all.goodput < 92 {
		t.Errorf("in all %.1f %% of C", all.goodput)
	}
}

// One tenant asks for 5 C, 99 others for 0.9 C together.
func TestSoakOneTenantCannotStarveTheRest(t *testing.T) {
	const hog = 0
	load := loadsim.Load{Rate: loadsim.Constant(5.9), For: 5 * second, Seed: 1, Class: func(r *rand.Rand) int {
		if r.Float64() < 5/5.9 {
			return hog
		}
		return 1 + r.IntN(99)
	}}
	share := func(t *testing.T, sv service, o Options) float64 {
		r := run(t, sv, knees(o), 1, load, nil)
		c := r.Between(2*second, 5*second, func(class int) bool { return class != hog })
		all := measure(r, sv.capacity, 2*second, 5*second)
		t.Logf("soak: tenants: %+v; all: %v", c, all)
		if all.goodput < 92 {
			t.Errorf("in all %.1f %% of C", all.goodput)
		}
		return float64(c.Good) / float64(c.Offered)
	}
	t.Run("fair", func(t *testing.T) {
		t.Parallel()
		if got := share(t, ioConstant, Options{}); got < 0.92 {
			t.Errorf("the others get %.1f %% of what they ask", 100*got)
		}
	})
	t.Run("one key", func(t *testing.T) {
		t.Parallel()
		if got := share(t, cpuConstant, Options{Key: func(*http.Request) string { return "all" }}); got > 0.4 {
			t.Errorf("without fairness the others get %.1f %%: the load does not test anything", 100*got)
		}
	})
}

// classOf is the class of a request that run made.
func classOf(r *http.Request) int {
	var class int
	fmt.Sscanf(r.RemoteAddr, "192.0.2.%d:", &class)
	return class
}

func TestSoakTheLimitStaysAboveTheLoadWhileNothingIsScarce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := limiterOf(t, Options{}, nil)
		for range 300 { // 200 at a time, none of which waits for another
			for range 20 {
				go func() {
					ctx, err := l.Acquire(context.Background(), "")
					if err != nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
					Release(ctx)
				}()
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := l.Stats().Limit; n < 300 {
			t.Errorf("limit %d with 200 at a time", n)
		}
		before := l.Stats().RefusedWaited
		for range 300 {
			for range 20 {
				go func() {
					ctx, err := l.Acquire(context.Background(), "")
					if err != nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
					Release(ctx)
				}()
			}
			time.Sleep(10 * time.Millisecond)
		}
		if after := l.Stats().RefusedWaited; after != before {
			t.Errorf("%d refused in the second three seconds", after-before)
		}
		time.Sleep(time.Second)
	})
}
