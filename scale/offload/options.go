package offload

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fairlead/fairlead/internal/process"
)

// Options are the settings of a Lane. The zero value is good for production.
type Options struct {
	// Workers is how many tasks run at a time, in threads and processes together. Where threads cannot be niced (see the
	// package's comment) fewer may. 0 means GOMAXPROCS; negative is an error.
	Workers int

	// MaxQueue bounds how many tasks wait. In a full queue a task takes the place of one of a lower priority. 0 means 256,
	// negative means that none waits.
	MaxQueue int

	// QueueTimeout bounds how long a task waits for a worker. 0 means 1 s; negative is an error.
	QueueTimeout time.Duration

	// RunTimeout bounds how long a task runs: its context ends, and its caller gets an error that wraps
	// context.DeadlineExceeded whether it heeds that or not. 0 means no bound but the caller's context; negative is an error.
	RunTimeout time.Duration

	// Aging is how long a priority goes without a turn until it counts as the next higher one. 0 means QueueTimeout ÷ 4;
	// negative means that a lower priority waits until no higher one does.
	Aging time.Duration

	// StandingAfter is for how long tasks of a priority wait without a break until the newest of them comes first: the
	// oldest will have timed out before their turn. 0 means 100 ms, negative means never.
	StandingAfter time.Duration

	// RetryAfter is what Middleware tells clients that it turns away, spread evenly from half to one and a half times as
	// long and rounded up to seconds. 0 means 2 s; negative is an error.
	RetryAfter time.Duration

	// MaxMemory, in bytes, is what a process may use (its resident set, looked at 20 times a second on Linux) until it is
	// killed; 0.9 of it becomes its GOMEMLIMIT. 0 means no bound; negative is an error.
	MaxMemory int64

	// Grace is how long after the end of its context a process gets to return before it is killed. 0 means 100 ms; negative
	// is an error.
	Grace time.Duration

	// IdleTimeout ends a process that has had nothing to do for so long. 0 means 1 min, negative means never.
	IdleTimeout time.Duration

	// Logger hears once why threads are not niced, once that the collector waits for niced threads, and of processes that
	// end when they should not. Nil means slog.Default().
	Logger *slog.Logger
}

func (o Options) validate() error {
	var errs []error
	fault := func(field string, value any, zero string) {
		errs = append(errs, fmt.Errorf("offload: Options.%s = %v: must be >= 0 (0 means %s)", field, value, zero))
	}
	if o.Workers < 0 {
		fault("Workers", o.Workers, "GOMAXPROCS")
	}
	for _, f := range []struct {
		name  string
		value time.Duration
		zero  string
	}{
		{"QueueTimeout", o.QueueTimeout, "1s"},
		{"RunTimeout", o.RunTimeout, "no bound"},
		{"RetryAfter", o.RetryAfter, "2s"},
		{"Grace", o.Grace, "100ms"},
	} {
		if f.value < 0 {
			fault(f.name, f.value, f.zero)
		}
	}
	if o.MaxMemory < 0 {
		fault("MaxMemory", o.MaxMemory, "no bound")
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if o.Workers == 0 {
		o.Workers = process.BaseProcs()
	}
	if o.MaxQueue == 0 {
		o.MaxQueue = 256
	}
	o.MaxQueue = max(0, o.MaxQueue)
	def(&o.QueueTimeout, time.Second)
	def(&o.Aging, o.QueueTimeout/4)
	def(&o.StandingAfter, 100*time.Millisecond)
	def(&o.RetryAfter, 2*time.Second)
	def(&o.Grace, 100*time.Millisecond)
	def(&o.IdleTimeout, time.Minute)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}
