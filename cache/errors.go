package cache

import (
	"errors"
	"fmt"
)

var (
	// ErrClosed is returned by every method after Close, and to those whose load it cut short.
	ErrClosed = errors.New("cache: closed")
	// ErrReentrant is returned by a Get inside the load of the same key, which could only wait for itself.
	ErrReentrant = errors.New("cache: a load asks for the key it is loading")
)

// PanicError is what those who wait for a load get when it panics.
type PanicError struct {
	Value any    // what was passed to panic
	Stack []byte // of the goroutine that panicked
}

// Error returns the panic's value; the stack is in its field.
func (e *PanicError) Error() string { return fmt.Sprintf("cache: the load panicked: %v", e.Value) }

// Unwrap returns the panic's value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

var (
	errGoexit    = errors.New("cache: the load ended its goroutine")
	errDone      = errors.New("cache: the load is over")
	errBusy      = errors.New("cache: enough loads of the key are running")
	errAbandoned = errors.New("cache: nobody waits for the load any more")
)
