package overload

import "math"

// limit is the rule that says how many may run at a time. The Limiter calls it under its lock; times are seconds since New.
type limit interface {
	// advance comes before every change of what runs or waits, with the state that has held since the last call: n run, and
	// busy says that none more may start, or some wait. ahead is what the wall clock shows beyond now: it makes rules in
	// several processes measure together.
	advance(now, ahead float64, n int, busy bool)
	max() int
	patience() float64                 // how long clients wait, as far as is known
	arrived(wait float64)              // a request came with a deadline that long away
	departed(now, after float64)       // a client left after that long
	watching(now float64) bool         // whether departed would learn anything
	done(now, took float64, late bool) // one finished after that long; late: its client had gone
	refused()
	withdrawn(now, since float64) // one that has run since then turned out to be a stream
	state() state
}

type state struct {
	base, rate float64
}

// The figures of knee. They were found by simulation (internal/loadsim and the tests beside it hold them); the thresholds an
// operator knows better are fields of Options.
const (
	minWidth = 0.1 // s, of a window
	maxWidth = 3.2
	minDone  = 8  // fewer in a window say nothing
	ringSize = 8  // estimates of the base time that are kept
	slack    = 2  // permits beyond Little's law: keeps a small limit from starving the service
	learning = 10 // s that clients' departures are watched after a window with many late answers
)

// knee keeps the service at the knee of its curve, where everything is busy and nothing queues inside: by Little's law that
// is X·R requests, X the completions a second while saturated and R the time a request takes without a queue.
//
// X is measured in every window. R (base) is the lowest of the last estimates; each window yields one by Little's law as well
// (mean number running ÷ completions a second), unless much more ended than began in it. While saturated, R would be whatever
// the limit makes it, so every now and then a probe lowers the limit to 0.8·X·R for a window: if the time then falls, there
// was a queue inside and R comes down; if it does not, R stands. Windows and probes begin on multiples of the wall clock, so
// that several processes in front of one bottleneck probe together: one alone would see the others' queue and take it for the
// service.
//
// Below saturation the limit stays well above what runs, so that a burst is not refused.
type knee struct {
	lowest, highest, initial float64

	limit    float64 // L
	factor   float64 // of the limit: below 1 in a probe
	rate     float64 // X, 1/s
	wait     float64 // D, the clients' patience in s
	taught   bool
	learn    float64 // until when departures teach
	estimate []float64
	base     float64 // R, s; 0 is not known

	wasBinding bool
	topped     bool    // refLimit and refTime are set
	refLimit   float64 // the highest limit of this saturation, and the time in the handler at it
	refTime    float64
	raised     float64 // the rate at which the limit was last raised fast
	nextProbe  float64

	calmArea, calmTime float64 // since the last estimate below saturation
	calmDone           int

	// The window.
	width, end, from, last float64
	ahead                  float64
	area                   float64 // the integral of what ran
	busyTime               float64
	finished, late, shed   int
	peak                   int
	took                   float64 // of those that finished, in all
	first, running         int     // what ran at the beginning, and now
}

func newKnee(o Options) *knee {
	return &knee{
		lowest: float64(o.Min), highest: float64(o.Max), initial: float64(o.Initial),
		limit: float64(o.Initial), factor: 1, wait: o.Patience.Seconds(), width: minWidth, end: -1,
	}
}

func (k *knee) max() int          { return int(math.Max(1, k.limit*k.factor)) }
func (k *knee) patience() float64 { return k.wait }
func (k *knee) state() state      { return state{k.base, k.rate} }

func (k *knee) arrived(wait float64) { k.teach(wait) }

// teach moves the patience, down fast and up slowly.
func (k *knee) teach(wait float64) {
	if !k.taught {
		k.taught, k.wait = true, wait
		return
	}
	gain := 0.01
	if wait < k.wait {
		gain = 0.1
	}
	k.wait += gain * (wait - k.wait)
}

// A few clients always leave early, people who click on. They tell of patience only when many leave.
func (k *knee) departed(now, after float64) {
	if k.watching(now) {
		k.teach(after)
	}
}

func (k *knee) watching(now float64) bool { return now < k.learn }

func (k *knee) done(_, took float64, late bool) {
	k.finished++
	k.took += took
	if late {
		k.late++
	}
}

func (k *knee) refused() { k.shed++ }

func (k *knee) withdrawn(now, since float64) {
	k.area = math.Max(0, k.area-(now-math.Max(since, k.from)))
}

func (k *knee) advance(now, ahead float64, n int, busy bool) {
	k.ahead = ahead
	if k.end < 0 {
		k.begin(now, n)
		return
	}
	if now >= k.end {
		k.account(k.end, n, busy)
		k.close(k.end)
		k.begin(now, n)
		return
	}
	k.account(now, n, busy)
	// A probe counts only once the excess has drained and the service has settled.
	if k.factor < 1 && (n > k.max() || now < k.end-k.width+math.Min(k.width/2, 1.5*k.base)) {
		k.from, k.area, k.took, k.busyTime, k.finished, k.late = now, 0, 0, 0, 0, 0
	}
}

func (k *knee) begin(now float64, n int) {
	k.end = k.after(now, k.width)
	k.from, k.last = now, now
	k.area, k.took, k.busyTime, k.finished, k.late, k.shed, k.peak, k.first = 0, 0, 0, 0, 0, 0, n, n
}

// after is the next multiple of step on the wall clock.
func (k *knee) after(now, step float64) float64 {
	return (math.Floor((now+k.ahead)/step+1e-9)+1)*step - k.ahead
}

func (k *knee) account(now float64, n int, busy bool) {
	dt := now - k.last
	k.last = now
	k.area += dt * float64(n)
	k.running = n
	if busy {
		k.busyTime += dt
	}
	k.peak = max(k.peak, n)
}

// close ends a window and sets the next one's limit.
func (k *knee) close(now float64) {
	probing := k.factor < 1
	k.factor = 1
	if k.finished < minDone {
		if !probing {
			k.width = math.Min(2*k.width, maxWidth)
		}
		return
	}
	elapsed := now - k.from
	rate, inside := float64(k.finished)/elapsed, k.area/float64(k.finished)
	if moved := k.running - k.first; !probing && 3*max(moved, -moved) > k.finished {
		// Little's law is about what stays as it is. While the number inside falls, as much as ends in a window that has begun
		// before it, and the time inside would look too short.
		inside = math.Max(inside, k.took/float64(k.finished))
	}
	if k.base == 0 {
		k.file(inside)
	}
	if 20*k.late > k.finished {
		k.learn = now + learning
	}
	behind := 20*k.late > k.finished && inside > 1.25*k.base // answers come late, and a queue inside is why
	binding := k.busyTime >= elapsed/2 || 20*k.shed > k.finished
	if binding && !k.wasBinding && !behind {
		k.wasBinding = true
		k.rate = math.Max(k.rate, rate)
		return // one window may be a burst
	}
	k.wasBinding = binding

	switch {
	case probing && binding:
		k.probed(rate, inside)
		k.size(1.25, behind)
	case probing:
		// The load went while we looked.
	case binding || behind:
		k.size(k.saturated(now, rate, inside, behind), behind)
	default:
		k.calm(elapsed, rate, inside)
	}
	k.limit = math.Max(k.lowest, math.Min(k.highest, k.limit))
	k.widen()
}

// probed reads a window with a lowered limit.
func (k *knee) probed(rate, inside float64) {
	switch {
	case inside < 0.87*k.base:
		k.file(inside)
		k.factor = 0.4 // there was a queue inside: look lower at once
	case inside > 1.3*k.base && rate < 0.9*k.rate:
		k.forget() // less in, less out and still slow: the service itself has become slower
		k.file(inside)
	default:
		k.file(inside)
	}
}

// saturated reads a window in which the limit held, and returns the gain for the next.
func (k *knee) saturated(now, rate, inside float64, behind bool) (gain float64) {
	gain = 1.25
	if k.rate == 0 {
		k.rate = rate
	}
	k.rate += 0.5 * (rate - k.rate)
	if rate > 1.25*k.rate {
		k.rate = rate // still rising
	}
	if inside <= 1.15*k.base && !behind && rate > 1.2*k.raised {
		k.raised, gain = rate, 2 // no queue inside at this limit: grow fast
	}
	switch {
	case !k.topped || k.limit > k.refLimit:
		k.topped, k.refLimit, k.refTime = true, k.limit, inside
	case k.limit < 0.7*k.refLimit:
		if inside > 0.9*k.refTime && inside > 1.3*k.base {
			k.forget() // the limit fell by a third and the time did not: the queue was not ours
		}
		k.refLimit, k.refTime = k.limit, inside
	}
	if inside < k.base || len(k.estimate) == 0 {
		k.file(inside)
	}
	if now >= k.nextProbe {
		k.factor = 0.64
		k.nextProbe = k.after(now, math.Max(1.6, 8*k.width))
	}
	return gain
}

// calm reads a window in which the limit did not matter.
func (k *knee) calm(elapsed, rate, inside float64) {
	k.topped, k.raised = false, 0
	k.rate = math.Max(0.99*k.rate, rate)
	k.calmArea, k.calmTime, k.calmDone = k.calmArea+k.area, k.calmTime+elapsed, k.calmDone+k.finished
	if k.calmTime >= 1 && k.calmDone >= 64 {
		k.file(k.calmArea / float64(k.calmDone))
		k.calmArea, k.calmTime, k.calmDone = 0, 0, 0
	}
	k.limit = math.Max(k.initial, 0.98*k.limit)
	if inside <= 1.5*k.base {
		k.limit = math.Max(k.limit, 2*float64(k.peak))
	}
}

// size sets the limit by Little's law, to a time that clients will wait for.
func (k *knee) size(gain float64, behind bool) {
	t := gain * k.base
	if gain < 2 {
		t = math.Min(t, 0.6*k.wait)
	}
	if !behind {
		t = math.Max(t, 1.1*k.base)
	}
	k.limit = k.rate*t + slack
}

// widen takes the shortest window that sees enough.
func (k *knee) widen() {
	times := 1.0
	if k.factor < 1 {
		times = 3
	}
	for k.width = minWidth; k.width < maxWidth && (k.width*k.rate < 32 || k.width < math.Min(times*k.base, 2*k.wait)); {
		k.width *= 2
	}
}

// file adds an estimate of the base time.
func (k *knee) file(t float64) {
	if len(k.estimate) == ringSize {
		k.estimate = append(k.estimate[:0], k.estimate[1:]...)
	}
	k.estimate = append(k.estimate, t)
	k.base = t
	for _, e := range k.estimate {
		k.base = math.Min(k.base, e)
	}
}

func (k *knee) forget() { k.estimate, k.raised = k.estimate[:0], 0 }

// off lets everything through.
type off struct{ knee }

func newOff(o Options) *off { return &off{*newKnee(o)} }

func (*off) max() int                            { return math.MaxInt }
func (*off) advance(_, _ float64, _ int, _ bool) {}
