package testenv

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Shared is a server that the tests of a package share. It is started by the
// first Get. It is safe for concurrent use.
type Shared[T io.Closer] struct {
	start func(context.Context) (T, error)

	mu      sync.Mutex
	started bool
	closed  bool
	value   T
	err     error
}

// Share returns a server that start will start, once, when it is first needed.
func Share[T io.Closer](start func(context.Context) (T, error)) *Shared[T] {
	return &Shared[T]{start: start}
}

// Get returns the server, starting it if this is the first call. A failed start
// is not tried again: every call returns its error. Starting is given two
// minutes. After Close it returns ErrClosed.
func (s *Shared[T]) Get() (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		var none T
		return none, ErrClosed
	}
	if !s.started {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		s.started = true
		s.value, s.err = s.start(ctx)
	}
	return s.value, s.err
}

// Close closes the server if it was started. Only the first call does anything.
func (s *Shared[T]) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if !s.started || s.err != nil {
		return nil
	}
	return s.value.Close()
}

// Main runs the tests of a package and then closes its servers, the last one
// first. It returns run's exit code, or 1 if that was 0 and a server could not be
// closed, which it reports on standard error.
func Main(run func() int, servers ...io.Closer) int {
	code := run()
	for i := len(servers) - 1; i >= 0; i-- {
		if err := servers[i].Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			if code == 0 {
				code = 1
			}
		}
	}
	return code
}
