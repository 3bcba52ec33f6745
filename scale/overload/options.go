package overload

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// Options are the settings of a Limiter. The zero value is good for production.
type Options struct {
	// Initial is the limit before anything is known, and the least one while the service is not saturated. A service whose
	// handlers wait long (500 ms) for something that is not scarce needs a higher one, about the requests a second that may
	// come all of a sudden × the seconds a handler takes: else such a jump is refused for the most part until the limit has
	// grown, which takes seconds. 0 means 32, or the nearest that Min and Max allow; negative is an error.
	Initial int

	// Min and Max bound the limit. Min = Max is a fixed limit. 0 means 1 and 10000; negative is an error.
	Min int
	Max int

	// MaxQueue bounds how many requests wait. In a full queue a request takes the place of one of a lower priority or of a
	// key with more waiting. 0 means 4096, negative means that none waits.
	MaxQueue int

	// MaxWait bounds how long a request waits in the queue. The clients' patience ÷ 4 does too. 0 means 50 ms; negative is
	// an error.
	MaxWait time.Duration

	// StandingAfter is how long a key's line in the queue may be without a break before the queue counts as standing: then
	// the newest are served first and each waits at most StandingWait. 0 means 100 ms and 10 ms; negative is an error.
	StandingAfter time.Duration
	StandingWait  time.Duration

	// Patience is how long clients are taken to wait for an answer until their deadlines and departures say more. 0 means
	// 1 s; negative is an error.
	Patience time.Duration

	// MaxPatience is the longest deadline that says how long a client waits; one further away is a bound of the server's own
	// and teaches nothing. Set it a little below the time-out that your server gives every request, if that is shorter. 0
	// means 10 s; negative is an error.
	MaxPatience time.Duration

	// MaxMemory is the share of GOMEMLIMIT (runtime/debug.SetMemoryLimit) above which sheddable requests are refused: memory
	// that the collector could not free. Without a limit nothing happens. 0 means 0.95, negative means never; above 1 is an
	// error.
	MaxMemory float64

	// RetryAfter is what refused clients are told, spread evenly from half to one and a half times as long and rounded up to
	// seconds, so that they do not return together. 0 means 2 s; negative is an error.
	RetryAfter time.Duration

	// Key tells the parties apart that share a priority's permits equally, for Middleware. A key that callers can invent is
	// none: it would get them more. Nil means the address of the peer, of IPv6 the /64; behind a proxy that is the proxy's, so
	// give it ratelimit.ClientIP(proxies...) there. It is called only for requests that have to wait.
	Key func(*http.Request) string

	// Priority gives a request its priority, for Middleware. Nil means that of its context, WithPriority.
	Priority func(*http.Request) Priority

	// Off lets everything through, and still counts.
	Off bool

	// Logger hears, every 10 s at most, that requests are refused. Nil means slog.Default().
	Logger *slog.Logger
}

func (o Options) validate() error {
	var errs []error
	fault := func(field string, value any, must string) {
		errs = append(errs, fmt.Errorf("overload: Options.%s = %v: must be %s", field, value, must))
	}
	if o.Initial < 0 {
		fault("Initial", o.Initial, ">= 0 (0 means 32)")
	}
	if o.Min < 0 {
		fault("Min", o.Min, ">= 0 (0 means 1)")
	}
	if o.Max < 0 {
		fault("Max", o.Max, ">= 0 (0 means 10000)")
	}
	if d := o.withDefaults(); o.Min >= 0 && o.Max >= 0 && d.Min > d.Max {
		fault("Min", d.Min, fmt.Sprintf("<= Max (%d)", d.Max))
	} else if o.Initial > 0 && o.Min >= 0 && o.Max >= 0 && (o.Initial < d.Min || o.Initial > d.Max) {
		fault("Initial", o.Initial, fmt.Sprintf("from Min (%d) to Max (%d)", d.Min, d.Max))
	}
	for _, f := range []struct {
		name  string
		value time.Duration
		zero  string
	}{
		{"MaxWait", o.MaxWait, "50ms"},
		{"StandingAfter", o.StandingAfter, "100ms"},
		{"StandingWait", o.StandingWait, "10ms"},
		{"Patience", o.Patience, "1s"},
		{"MaxPatience", o.MaxPatience, "10s"},
		{"RetryAfter", o.RetryAfter, "2s"},
	} {
		if f.value < 0 {
			fault(f.name, f.value, ">= 0 (0 means "+f.zero+")")
		}
	}
	if !(o.MaxMemory <= 1) {
		fault("MaxMemory", o.MaxMemory, "<= 1, a share (0 means 0.95, negative never)")
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	o.Min = or(o.Min, 1)
	o.Max = or(o.Max, 10000)
	o.Initial = or(o.Initial, min(max(32, o.Min), o.Max))
	o.MaxQueue = max(0, or(o.MaxQueue, 4096))
	o.MaxWait = or(o.MaxWait, 50*time.Millisecond)
	o.StandingAfter = or(o.StandingAfter, 100*time.Millisecond)
	o.StandingWait = or(o.StandingWait, 10*time.Millisecond)
	o.Patience = or(o.Patience, time.Second)
	o.MaxPatience = or(o.MaxPatience, 10*time.Second)
	o.MaxMemory = or(o.MaxMemory, 0.95)
	o.RetryAfter = or(o.RetryAfter, 2*time.Second)
	if o.Key == nil {
		o.Key = peer
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}
