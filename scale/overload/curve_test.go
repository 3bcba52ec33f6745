//go:build soak

package overload

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/loadsim"
)

const second = time.Second

var (
	ioExponential  = service{"8 slots, exponential", 8 / 0.0106, loadsim.Exponential(10600 * time.Microsecond), slots}
	cpuExponential = service{"2 cores, exponential", 400, loadsim.Exponential(5 * time.Millisecond), cores}
	ioMixed        = service{"8 slots, 90 % 4 ms, 10 % 60 ms", 8 / 0.0096, func(r *rand.Rand) time.Duration {
		if r.Float64() < 0.1 {
			return 60 * time.Millisecond
		}
		return 4 * time.Millisecond
	}, slots}
	cpuLognormal = service{"2 cores, lognormal, sigma 1", 400, func(r *rand.Rand) time.Duration {
		return time.Duration(5e6 * math.Exp(r.NormFloat64()-0.5))
	}, cores}
)

// point is one load of a curve, over several seeds.
type point struct {
	load                   float64
	goodput, least, refuse float64       // % of C: the mean and the worst seed; the mean % refused
	p99                    time.Duration // the worst
}

func (p point) String() string {
	return fmt.Sprintf("%v C: %.1f (%.1f) %.2f %d", p.load, p.goodput, p.least, p.refuse, p.p99.Milliseconds())
}

// curve offers each load for 20 s, as often as there are seeds, and measures from the third second on.
func curve(t *testing.T, sv service, g guard, n int, deadline bool, seeds int, loads ...float64) []point {
	t.Helper()
	const to = 20 * second
	var points []point
	var texts []string
	for _, m := range loads {
		p := point{load: m, least: math.Inf(1)}
		for seed := range seeds {
			r := run(t, sv, g, n, loadsim.Load{Rate: loadsim.Constant(m), For: to, Deadline: deadline, Seed: uint64(seed) + 1}, nil)
			s := measure(r, sv.capacity, 3*second, to)
			p.goodput += s.goodput / float64(seeds)
			p.refuse += s.refused / float64(seeds)
			p.least, p.p99 = min(p.least, s.goodput), max(p.p99, s.p99)
		}
		points = append(points, p)
		texts = append(texts, p.String())
	}
	t.Logf("soak: %s, %s: %s", sv.name, g.name, strings.Join(texts, " | "))
	return points
}

// The promise: at ten times the capacity goodput stays within 5 % of its peak, and at 0.8 C next to nothing is refused.
func TestSoakGoodputHoldsAtTenTimesTheCapacity(t *testing.T) {
	t.Log("soak: load: goodput in % of C, mean (worst of the seeds); refused in %; worst p99 of those served in ms, of clients who wait for 100")
	for _, test := range []struct {
		service
		limiters int
		deadline bool
		refused  float64 // % at 0.8 C, at most
		share    float64 // of its peak at 10 C, at least
	}{
		{ioConstant, 1, false, 0.5, 0.95},
		{cpuConstant, 1, false, 0.5, 0.95},
		{ioExponential, 1, false, 0.5, 0.95},
		{cpuConstant, 1, true, 0.5, 0.95},
		// Beyond the promise; doc.go names these limits.
		{cpuExponential, 1, false, 3, 0.95},
		{ioMixed, 1, false, 3, 0.9},
		{cpuLognormal, 1, false, 3, 0.95},
		{ioConstant, 4, false, 0.5, 0.85},
		{cpuConstant, 4, false, 0.5, 0.95},
	} {
		name := fmt.Sprintf("%s, %d limiters, deadline known %v", test.name, test.limiters, test.deadline)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := ours
			g.name = fmt.Sprintf("%d limiters, deadline known: %v", test.limiters, test.deadline)
			points := curve(t, test.service, g, test.limiters, test.deadline, 3, 0.5, 0.8, 1, 1.5, 3, 10)
			peak := 0.0
			for _, p := range points {
				peak = max(peak, p.goodput)
			}
			for _, p := range points {
				switch {
				case p.load < 1 && p.refuse > test.refused:
					t.Errorf("at %v C %.2f %% refused: want at most %v", p.load, p.refuse, test.refused)
				case p.load < 1 && p.goodput < 100*p.load-3:
					t.Errorf("at %v C the goodput is %.1f %% of C", p.load, p.goodput)
				case p.load == 10 && p.goodput < test.share*peak:
					t.Errorf("at 10 C the goodput is %.1f %% of C: want at least %v of its peak, %.1f", p.goodput, test.share, peak)
				}
			}
			if peak < 95 {
				t.Errorf("the peak is %.1f %% of C", peak)
			}
		})
	}
}

// What the tests above measure is there without the limiter: the controls fail them.
func TestSoakControls(t *testing.T) {
	for _, sv := range []service{ioConstant, cpuConstant} {
		t.Run(sv.name, func(t *testing.T) {
			t.Parallel()
			points := curve(t, sv, nothing, 1, false, 1, 0.8, 1.5)
			if points[0].goodput < 75 || points[1].goodput > 5 {
				t.Errorf("without a limiter %.1f %% of C at 0.8, %.1f at 1.5: the load does not test anything", points[0].goodput, points[1].goodput)
			}
			for _, g := range []guard{static24, static24Queue, vegasQueue} {
				curve(t, sv, g, 1, false, 1, 0.8, 1.5, 10)
			}
		})
	}
}

// Several processes on one machine share its cores and know nothing of each other. This is what sets the rule apart.
func TestSoakOtherRulesWithFourLimiters(t *testing.T) {
	for _, g := range []guard{static24Queue, vegasQueue} {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			if points := curve(t, cpuConstant, g, 4, false, 1, 10); points[0].goodput > 50 {
				t.Errorf("%.1f %% of C at 10 C: this used to be what sets the rule apart", points[0].goodput)
			}
		})
	}
}
