package offload

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"sync"

	"github.com/fairlead/fairlead/internal/process"
)

// Main runs registered functions and does not return if this process was started for that; otherwise it returns at once. Call
// it first thing in main, or in a test's TestMain, where functions are given to [Register]. cluster.Main and cluster.Run do it
// too.
func Main() { process.TakeRole() }

// roleTask is the role of a process that runs registered functions.
const roleTask = "offload"

var registry = struct {
	sync.Mutex
	functions map[string]func(context.Context, []byte) ([]byte, error)
	twice     map[string]bool
}{functions: make(map[string]func(context.Context, []byte) ([]byte, error)), twice: make(map[string]bool)}

// Register makes fn a function that runs in another process: a copy of this program, with priority 10 lower, that Main or
// cluster.Main keeps from becoming another service. Call it in the declaration of a package's variable, so that the copy knows
// it as well, and with a name that is not empty and nowhere else in the program:
//
//	var resize = offload.Register("resize", func(ctx context.Context, in Request) (Picture, error) {…})
//	...
//	picture, err := resize(ctx, lane, Request{…})
//
// The lane's queue, time-outs and number of workers hold as with [Do]. Argument and result travel as encoding/gob has it (an
// exported field each, or a basic type; no functions or channels); an error of fn keeps its text, and whether it is
// context.Canceled or context.DeadlineExceeded. A process serves one call at a time, then others; package variables keep
// their values between them. What fn prints goes where this process prints.
//
// When ctx ends, so does fn's; if it does not return within Options.Grace its process is killed, as it is above
// Options.MaxMemory. That and any other end of the process is an *ExitError. It is not tried again: nobody knows how far it got.
//
// On Windows fn runs in a thread of this process, as with Do.
func Register[In, Out any](name string, fn func(context.Context, In) (Out, error)) func(context.Context, *Lane, In) (Out, error) {
	registry.Lock()
	if registry.functions[name] != nil {
		registry.twice[name] = true
	}
	registry.functions[name] = func(ctx context.Context, argument []byte) ([]byte, error) {
		in, err := decode[In](argument)
		if err != nil {
			return nil, fmt.Errorf("offload: the argument of %s: %w", name, err)
		}
		out, err := fn(ctx, in)
		if err != nil {
			return nil, err
		}
		result, err := encode(out)
		if err != nil {
			return nil, fmt.Errorf("offload: the result of %s: %w", name, err)
		}
		return result, nil
	}
	registry.Unlock()
	process.Handle(roleTask, serve)

	return func(ctx context.Context, l *Lane, in In) (out Out, err error) {
		if !hasProcesses {
			return Do(ctx, l, func(ctx context.Context) (Out, error) { return fn(ctx, in) })
		}
		if err := registered(name); err != nil {
			return out, err
		}
		argument, err := encode(in)
		if err != nil {
			return out, fmt.Errorf("offload: the argument of %s: %w", name, err)
		}
		var result []byte
		ran, err := l.do(&task{ctx: ctx, process: func(ctx context.Context) (err error) {
			result, err = l.children.call(ctx, name, argument)
			return err
		}})
		if !ran || err != nil {
			return out, err
		}
		return decode[Out](result)
	}
}

// registered says whether a process could run the function.
func registered(name string) error {
	registry.Lock()
	defer registry.Unlock()
	switch {
	case name == "" || len(name) > 1<<16-1:
		return errors.New("offload: Register: the name must have 1 to 65535 bytes")
	case registry.twice[name]:
		return fmt.Errorf("offload: Register: two functions are named %s", name)
	case !process.Taken():
		return errors.New("offload: registered functions need offload.Main or cluster.Main first thing in main: without it another process would run the whole program")
	}
	return nil
}

// carried lets gob take what it does not take alone, a nil pointer or a zero value.
type carried[T any] struct{ V T }

func encode[T any](v T) ([]byte, error) {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(carried[T]{v})
	return b.Bytes(), err
}

func decode[T any](b []byte) (T, error) {
	var c carried[T]
	err := gob.NewDecoder(bytes.NewReader(b)).Decode(&c)
	return c.V, err
}
