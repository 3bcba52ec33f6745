package overload

import (
	"errors"
	"fmt"
	"time"
)

// ErrRefused is what Acquire returns, wrapped, for a request that is not to be served now.
var ErrRefused = errors.New("overload: refused")

type reason int

const (
	waited reason = iota
	tooLate
	full
	noMemory
	numReasons
)

func (r reason) String() string {
	switch r {
	case tooLate:
		return "it could not be done by its deadline"
	case full:
		return "the queue is full"
	case noMemory:
		return "memory runs out"
	}
	return "no permit came free in time"
}

// refusal is made on the hot path of an overload: its text only when somebody asks.
type refusal struct {
	limiter  string
	reason   reason
	priority Priority
	waited   time.Duration
}

func (e *refusal) Error() string {
	return fmt.Sprintf("overload: %s: refused (%s) after %v: %v", e.limiter, e.priority, e.waited.Round(time.Microsecond), e.reason)
}

func (*refusal) Unwrap() error { return ErrRefused }
