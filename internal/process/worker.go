// Package process is what a Fairlead process knows of itself: the worker it is, found in a context, and the role that a
// re-executed binary plays. It lets cluster, scale and scale/drain meet without importing each other.
package process

import (
	"context"
	"iter"
	"net"
	"time"

	"github.com/fairlead/fairlead/internal/telemetry"
)

// Worker is one process of a cluster, or the only one there is, as the code that runs in it sees it.
// Its methods are safe for concurrent use.
type Worker interface {
	// Slot is the worker's stable place, 0 to workers-1; Generation counts the processes that have stood there.
	Slot() int
	Generation() int
	// InstanceID is unique to this process.
	InstanceID() string

	// Listener is the listening socket of that name. Closing it stops accepting in this process only.
	Listener(name string) (net.Listener, error)
	// Ready says that the worker serves. Only the first call counts.
	Ready()

	// DrainTimeout, IdleGrace and PreStop are the cluster's settings for scale/drain.
	DrainTimeout() time.Duration
	IdleGrace() time.Duration
	PreStop() time.Duration

	// AddCheck adds a named readiness check; AddSamples a source of numbers for the page and /metrics.
	AddCheck(name string, check func(context.Context) error)
	AddSamples(source func() iter.Seq[telemetry.Sample])
}

type workerKey struct{}

// WithWorker returns a context that carries w.
func WithWorker(ctx context.Context, w Worker) context.Context {
	return context.WithValue(ctx, workerKey{}, w)
}

// WorkerFrom returns the worker in ctx, or nil.
func WorkerFrom(ctx context.Context) Worker {
	w, _ := ctx.Value(workerKey{}).(Worker)
	return w
}
