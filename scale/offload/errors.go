package offload

import (
	"errors"
	"fmt"
)

// Errors that a lane gives for a task that it has not run. Middleware answers them with 503.
var (
	// ErrQueueFull says that Options.MaxQueue tasks wait already, or that one of a higher priority took this one's place.
	ErrQueueFull = errors.New("offload: the queue is full")

	// ErrQueueTimeout says that no worker came free within Options.QueueTimeout.
	ErrQueueTimeout = errors.New("offload: waited too long for a worker")

	// ErrDeadline says that the task's deadline is nearer than the time that the lane's tasks usually take.
	ErrDeadline = errors.New("offload: the deadline is too near")

	// ErrClosed says that the lane was closed.
	ErrClosed = errors.New("offload: the lane is closed")
)

// PanicError is a task's panic, or its call of runtime.Goexit. The worker goes on.
type PanicError struct {
	Value any    // nil after Goexit; of a registered function its text
	Stack []byte // nil after Goexit
}

func (e *PanicError) Error() string {
	if e.Value == nil {
		return "offload: the task called runtime.Goexit"
	}
	return fmt.Sprintf("offload: the task panicked: %v\n%s", e.Value, e.Stack)
}

// Unwrap returns the value if the task panicked with an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// ExitError says that the process that ran a registered function is gone: it exited, crashed or was killed. The next call
// gets another.
type ExitError struct {
	Task   string // the name given to Register
	Status string // "exit status 3", "signal: killed"
	Killed string // why the lane killed it, "memory" or (in the log: the caller has its context's error) "time"; else empty
}

func (e *ExitError) Error() string {
	switch e.Killed {
	case "time":
		return fmt.Sprintf("offload: %s was killed: it did not end when its context did", e.Task)
	case "memory":
		return fmt.Sprintf("offload: %s was killed: it used more than Options.MaxMemory", e.Task)
	}
	return fmt.Sprintf("offload: the process that ran %s is gone: %s", e.Task, e.Status)
}
