package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/fairlead/fairlead/internal/process"
)

var (
	// ErrDraining is the cause of the end of an app's context when its worker is to drain: the service stops, or another
	// worker takes the place.
	ErrDraining = errors.New("cluster: draining")

	// ErrOrphaned is the cause of the end of an app's context when the supervisor has gone. The worker has less than a
	// second left.
	ErrOrphaned = errors.New("cluster: the supervisor has gone")

	errConfig = errors.New("cluster: configuration")
)

// Main runs app like [Run] and ends the process: with status 0 after a clean stop, 2 when o is wrong, else 1 after
// writing the error to standard error.
func Main(app func(context.Context) error, o Options) {
	err := Run(context.Background(), app, o)
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, err)
	if errors.Is(err, errConfig) {
		os.Exit(2)
	}
	os.Exit(1)
}

// Run runs app in supervised worker processes, or in this process if o.Workers is 0, until ctx ends or a signal says so.
// In a worker, which executes the same program up to this call, it runs app itself and returns its error.
//
// app gets a context that carries the worker (see [From]) and ends when the worker is to drain. It should then finish what
// it has accepted and return nil. A worker whose app returns without having been asked is replaced, as after a crash.
//
// Run returns nil after a clean stop; an error for wrong options, for an address that cannot be bound, when no worker
// became ready, and when workers had to be killed at the end.
func Run(ctx context.Context, app func(context.Context) error, o Options) error {
	role := process.TakeRole()
	if err := o.validate(); err != nil {
		return configError{err}
	}
	o = o.withDefaults()
	switch {
	case role.Name == process.RoleWorker:
		return runWorker(ctx, app, o, role)
	case o.Workers == 0 || !canSupervise:
		return runInProcess(ctx, app, o)
	}
	return supervise(ctx, o)
}

// configError is a wrong option. Its text is that of the error in it.
type configError struct{ error }

func (e configError) Is(target error) bool { return target == errConfig }
func (e configError) Unwrap() error        { return e.error }

// Worker is the process an app runs in. Its methods are safe for concurrent use.
type Worker struct{ w process.Worker }

// From returns the worker that runs the app whose context ctx is. Where there is none, in a test without a cluster say, the
// result has slot and generation 0, no listeners, and nobody to be ready for.
func From(ctx context.Context) Worker { return Worker{process.WorkerFrom(ctx)} }

// Slot is the worker's place, 0 to workers-1. During a reload two workers share one: slot 0 is no leader.
func (w Worker) Slot() int {
	if w.w == nil {
		return 0
	}
	return w.w.Slot()
}

// Generation counts the processes that have stood in the slot, from 1.
func (w Worker) Generation() int {
	if w.w == nil {
		return 0
	}
	return w.w.Generation()
}

// InstanceID is unique to this process, over machines too.
func (w Worker) InstanceID() string {
	if w.w == nil {
		return ""
	}
	return w.w.InstanceID()
}

// Listener returns the socket that Options.Listen names so; a second call for the same name is an error. Closing it ends
// accepting in this worker only.
func (w Worker) Listener(name string) (net.Listener, error) {
	if w.w == nil {
		return nil, fmt.Errorf("cluster: no listener %q: the context carries no worker", name)
	}
	return w.w.Listener(name)
}

// PacketConn returns the packet socket that Options.Listen names so; a second call for the same name is an error. The workers
// share it: each datagram goes to any one of them, and those that wait in its queue outlive a worker. Closing it ends
// receiving in this worker only.
func (w Worker) PacketConn(name string) (net.PacketConn, error) {
	pw, ok := w.w.(interface {
		PacketConn(string) (net.PacketConn, error)
	})
	if !ok {
		return nil, fmt.Errorf("cluster: no packet socket %q: the context carries no worker of a cluster", name)
	}
	return pw.PacketConn(name)
}

// Ready reports that the worker serves. Apps that use scale or scale/drain need not call it. Only the first call counts.
func (w Worker) Ready() {
	if w.w != nil {
		w.w.Ready()
	}
}
