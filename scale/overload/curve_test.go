//go:build soak

package overload

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/fairlead/fairlead/internal/loadsim"
)

const second = time.Second

var ioExponential = service{"8 slots, exponential", 8 / 0.0106, loadsim.Exponential(10600 * time.Microsecond), slots}

// line is goodput in % of C, refused in % of what was offered and the p99 in ms, for each load.
func line(name string, loads []float64, spans []span) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-40s", name)
	for i, s := range spans {
		fmt.Fprintf(&b, " | %v C: %v", loads[i], s)
	}
	return b.String()
}

// curve offers each load for a while and measures from the third second on.
func curve(t *testing.T, sv service, g guard, n int, deadline bool, loads ...float64) []span {
	t.Helper()
	var spans []span
	for _, m := range loads {
		to := 8 * second
		switch {
		case m >= 10:
			to = 4500 * time.Millisecond
		case m >= 3:
			to = 5 * second
		}
		r := run(t, sv, g, n, loadsim.Load{Rate: loadsim.Constant(m), For: to, Deadline: deadline, Seed: 1}, nil)
		spans = append(spans, measure(r, sv.capacity, 3*second, to))
	}
	t.Log(line(sv.name+", "+g.name, loads, spans))
	return spans
}

// The promise: at ten times the capacity goodput stays within 5 % of its peak, and at 0.8 C next to nothing is refused.
func TestGoodputHoldsAtTenTimesTheCapacity(t *testing.T) {
	for _, test := range []struct {
		service
		deadline bool
		loads    []float64
	}{
		{ioConstant, false, []float64{0.5, 0.8, 1, 1.5, 3, 10}},
		{cpuConstant, false, []float64{0.5, 0.8, 1, 1.5, 3, 10}},
		{ioExponential, false, []float64{0.8, 1.5, 10}},
		{cpuConstant, true, []float64{0.8, 1.5, 10}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			spans := curve(t, test.service, ours, 1, test.deadline, test.loads...)
			peak := 0.0
			for _, s := range spans {
				peak = max(peak, s.goodput)
			}
			for i, s := range spans {
				m := test.loads[i]
				switch {
				case m < 1 && s.refused > 0.5:
					t.Errorf("at %v C %.2f %% refused: want at most 0.5", m, s.refused)
				case m < 1 && float64(s.Good) < 0.97*float64(s.Offered):
					t.Errorf("at %v C %d of %d were good", m, s.Good, s.Offered)
				case m >= 3 && s.goodput < 0.95*peak:
					t.Errorf("at %v C the goodput is %.1f %% of C: want at least 95 %% of its peak, %.1f", m, s.goodput, peak)
				case m >= 1 && s.goodput < 90:
					t.Errorf("at %v C the goodput is %.1f %% of C", m, s.goodput)
				}
				if m >= 1.5 && s.p99 > 110*time.Millisecond {
					t.Errorf("at %v C the p99 of accepted requests is %v: clients leave at 100ms", m, s.p99)
				}
			}
			if peak < 95 {
				t.Errorf("the peak is %.1f %% of C", peak)
			}
		})
	}
}

// What the tests above measure is there without the limiter: the controls fail them.
func TestControls(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		for _, sv := range []service{ioConstant, cpuConstant} {
			spans := curve(t, sv, nothing, 1, false, 0.8, 1.5)
			if spans[0].goodput < 75 || spans[1].goodput > 5 {
				t.Errorf("%s without a limiter: %.1f %% of C at 0.8, %.1f at 1.5: the load does not test anything", sv.name, spans[0].goodput, spans[1].goodput)
			}
		}
	})
	for _, g := range []guard{static24, static24Queue, vegasQueue} {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			curve(t, cpuConstant, g, 1, false, 0.8, 1.5, 10)
		})
	}
}

// Several processes on one machine share its cores and know nothing of each other.
func TestFourLimitersShareOneBottleneck(t *testing.T) {
	t.Run("overload", func(t *testing.T) {
		t.Parallel()
		spans := curve(t, cpuConstant, ours, 4, false, 0.8, 1.5, 10)
		if spans[0].refused > 0.5 {
			t.Errorf("at 0.8 C %.2f %% refused", spans[0].refused)
		}
		if at10 := spans[2].goodput; at10 < 0.95*max(spans[1].goodput, at10) {
			t.Errorf("at 10 C %.1f %% of C, at 1.5 C %.1f", at10, spans[1].goodput)
		}
	})
	for _, g := range []guard{static24Queue, vegasQueue} {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			if spans := curve(t, cpuConstant, g, 4, false, 10); spans[0].goodput > 50 {
				t.Errorf("%.1f %% of C at 10 C: this used to be what sets the rule apart", spans[0].goodput)
			}
		})
	}
}
