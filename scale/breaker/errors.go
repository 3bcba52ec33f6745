package breaker

import (
	"fmt"
	"time"
)

// OpenError says that a breaker refused a call, which was therefore not made. State says why: it is Open, or HalfOpen and
// has no probe to give away, or Closed and throttles because the dependency itself refuses.
type OpenError struct {
	Name   string // of the breaker
	State  State  // when it refused
	Forced bool   // by Force(Open)

	// Calls, Failures and Slow are those in the window that opened the breaker, or the probes that reopened it.
	Calls, Failures, Slow uint64

	// Requests and Accepts are what the throttle refused by: calls in its window, and those that the dependency did not
	// refuse. They are 0 unless State is Closed.
	Requests, Accepts uint64

	// NextProbe is when calls pass again to see whether the dependency works. While half-open it is in the past: probes
	// are under way. It is zero when forced or throttled.
	NextProbe time.Time
}

func (e *OpenError) Error() string {
	switch {
	case e.Forced:
		return fmt.Sprintf("breaker: %q is open: forced", e.Name)
	case e.State == Closed:
		return fmt.Sprintf("breaker: %q throttles: %d of %d requests were accepted", e.Name, e.Accepts, e.Requests)
	}
	next := "next probe at " + e.NextProbe.Format("15:04:05.000Z07:00")
	if e.State == HalfOpen {
		next = "probing since " + e.NextProbe.Format("15:04:05.000Z07:00")
	}
	return fmt.Sprintf("breaker: %q is %v: of %d calls %d failed and %d were slow; %s", e.Name, e.State, e.Calls, e.Failures, e.Slow, next)
}

// Retryable returns false: the breaker would refuse again at once. Package retry asks for it.
func (e *OpenError) Retryable() bool { return false }
