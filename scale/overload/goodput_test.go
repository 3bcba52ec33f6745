package overload

import (
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/loadsim"
)

// What the limiter is for, with margins that no order of arrivals can spoil; "make soak" has the whole curve, its dynamics
// and the other rules beside it.
func TestOverloadBendsAndDoesNotBreak(t *testing.T) {
	for _, sv := range []service{ioConstant, cpuConstant} {
		t.Run(sv.name, func(t *testing.T) {
			t.Parallel()
			offer := func(load float64, g guard) span {
				const to = 4 * time.Second
				r := run(t, sv, g, 1, loadsim.Load{Rate: loadsim.Constant(load), For: to, Seed: 1}, nil)
				s := measure(r, sv.capacity, 3*time.Second, to)
				t.Logf("%v C, %s: goodput, refused, p99: %v", load, g.name, s)
				return s
			}
			if s := offer(0.8, ours); s.refused > 5 || s.goodput < 60 {
				t.Errorf("at 0.8 C: goodput %.1f %% of C, %.2f %% refused", s.goodput, s.refused)
			}
			if s := offer(3, ours); s.goodput < 60 {
				t.Errorf("at 3 C the goodput is %.1f %% of C", s.goodput)
			}
			if s := offer(3, nothing); s.goodput > 20 {
				t.Errorf("without a limiter the goodput at 3 C is %.1f %% of C: the load does not test anything", s.goodput)
			}
		})
	}
}
