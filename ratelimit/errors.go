package ratelimit

import (
	"errors"
	"fmt"
	"time"
)

// ErrClosed is returned by a [Limiter] after Close.
var ErrClosed = errors.New("ratelimit: closed")

// Exceeded is the error for a permit that is not to be had in time. Find it with errors.As.
type Exceeded struct {
	Name       string        // the limiter
	RetryAfter time.Duration // when to ask again
}

// Error implements error.
func (e *Exceeded) Error() string {
	return fmt.Sprintf("ratelimit: %s: limit exceeded, retry after %v", e.Name, e.RetryAfter)
}

// Retryable returns false: to wait no longer is what the caller asked for. Package scale/retry asks for it.
func (e *Exceeded) Retryable() bool { return false }
