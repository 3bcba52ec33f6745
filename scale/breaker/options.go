package breaker

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Options are the settings of a Breaker. The zero value is good for most dependencies that answer within a second or two.
type Options struct {
	// Disabled starts the breaker as if Force(Closed) had been called: all calls pass and are counted. Force(Auto) turns
	// it on.
	Disabled bool

	// Window is how far back outcomes count. 0 means 10 s; at least 1 ms.
	Window time.Duration

	// Buckets is the number of steps in which outcomes leave the Window. 0 means 10; at most 1000.
	Buckets int

	// MinCalls is how many calls the Window must hold before the breaker can trip. 0 means 20; negative is an error.
	MinCalls int

	// FailureRate is the share of failed calls in the Window, 0 to 1, from which on the breaker trips. 0 means 0.5;
	// negative means that failures do not trip it.
	FailureRate float64

	// SlowCall is how long a call takes to count as slow. 0 means 5 s; negative means that no call is slow.
	SlowCall time.Duration

	// SlowRate is the share of slow calls in the Window, 0 to 1, from which on the breaker trips. 0 means 0.5; negative
	// means that slow calls do not trip it, and do not fail a probe.
	SlowRate float64

	// OpenFor is how long the breaker stays open before it probes. 0 means 5 s; at least 1 ms.
	OpenFor time.Duration

	// Probes is how many calls pass while half-open, at once and altogether; all must succeed, and not be slow, for the
	// breaker to close. 0 means 3; negative is an error.
	Probes int

	// ProbeTimeout is when a probe that has not ended counts as failed. Its caller goes on waiting. 0 means 10 s; negative
	// is an error.
	ProbeTimeout time.Duration

	// ThrottleWindow is how far back the throttle looks, in steps of a tenth. 0 means 30 s; at least 1 ms.
	ThrottleWindow time.Duration

	// ThrottleRatio is how many calls a dependency that refuses gets for each that it accepts. 0 means 2; at least 1.
	ThrottleRatio float64

	// MaxThrottle is the largest share of calls, 0 to 1, that the throttle refuses. 0 means 0.9; negative turns the
	// throttle off.
	MaxThrottle float64

	// IsFailure says whether an error is the dependency's failure; false makes the call a success ("not found" is an
	// answer). Nil means every error is.
	IsFailure func(error) bool

	// IsIgnored says whether an error says nothing about the dependency. It comes before IsFailure. Nil means none does,
	// beyond what the package's comment names.
	IsIgnored func(error) bool

	// IsRefusal says whether an error is the dependency's orderly refusal of load. It comes before IsIgnored. Nil means
	// none is; Transport knows HTTP's.
	IsRefusal func(error) bool

	// FailureStatus says which HTTP statuses Transport takes for failures. 429, and 503 with Retry-After, are refusals
	// before it is asked. Nil means 500 and above without 501.
	FailureStatus func(status int) bool

	// OnStateChange is told of each change, one at a time and in order, by the call that caused it or one at the same
	// time. No lock is held: it may use the breaker. A panic in it is logged. Nil means nobody is told.
	OnStateChange func(name string, from, to State)

	// Logger receives changes of state: Warn when opening, else Info. Nil means slog.Default().
	Logger *slog.Logger

	random func() float64 // tests seed it
}

func (o Options) withDefaults() Options {
	orElse(&o.Window, 10*time.Second)
	orElse(&o.Buckets, 10)
	orElse(&o.MinCalls, 20)
	orElse(&o.FailureRate, 0.5)
	orElse(&o.SlowCall, 5*time.Second)
	orElse(&o.SlowRate, 0.5)
	orElse(&o.OpenFor, 5*time.Second)
	orElse(&o.Probes, 3)
	orElse(&o.ProbeTimeout, 10*time.Second)
	orElse(&o.ThrottleWindow, 30*time.Second)
	orElse(&o.ThrottleRatio, 2)
	orElse(&o.MaxThrottle, 0.9)
	if o.FailureStatus == nil {
		o.FailureStatus = func(status int) bool { return status >= 500 && status != 501 }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.random == nil {
		o.random = rand.Float64
	}
	return o
}

func orElse[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (o Options) validate() error {
	var errs []error
	bad := func(field string, value any, must string) {
		errs = append(errs, fmt.Errorf("breaker: Options.%s = %v: must be %s", field, value, must))
	}
	span := func(field string, d, low time.Duration, zero string) {
		if d != 0 && d < low {
			bad(field, d, fmt.Sprintf(">= %v (0 means %s)", low, zero))
		}
	}
	rate := func(field string, r float64, zero string) {
		if !(r <= 1) { // NaN too
			bad(field, r, fmt.Sprintf("<= 1 (0 means %s, negative turns it off)", zero))
		}
	}
	span("Window", o.Window, time.Millisecond, "10s")
	if o.Buckets < 0 || o.Buckets > 1000 {
		bad("Buckets", o.Buckets, "from 1 to 1000 (0 means 10)")
	}
	if o.MinCalls < 0 {
		bad("MinCalls", o.MinCalls, ">= 0 (0 means 20)")
	}
	rate("FailureRate", o.FailureRate, "0.5")
	rate("SlowRate", o.SlowRate, "0.5")
	span("OpenFor", o.OpenFor, time.Millisecond, "5s")
	if o.Probes < 0 || o.Probes > 1<<20 {
		bad("Probes", o.Probes, "from 1 to 1048576 (0 means 3)")
	}
	span("ProbeTimeout", o.ProbeTimeout, 1, "10s")
	span("ThrottleWindow", o.ThrottleWindow, time.Millisecond, "30s")
	if o.ThrottleRatio != 0 && !(o.ThrottleRatio >= 1) {
		bad("ThrottleRatio", o.ThrottleRatio, ">= 1 (0 means 2)")
	}
	rate("MaxThrottle", o.MaxThrottle, "0.9")
	return errors.Join(errs...)
}
