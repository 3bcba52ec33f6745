package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/admin"
	"github.com/fairlead/fairlead/cluster/internal/machine"
	"github.com/fairlead/fairlead/cluster/internal/sys"
	"github.com/fairlead/fairlead/internal/process"
)

// alone is a cluster of one: the app in this process.
type alone struct {
	w        *worker
	cancel   context.CancelCauseFunc
	state    atomic.Pointer[machine.State]
	stopping atomic.Bool
	ops      operations // never any that starts
	mu       sync.Mutex
	tell     func(condition)
}

var _ controlled = (*alone)(nil)

func runInProcess(ctx context.Context, app func(context.Context) error, o Options) error {
	door, err := openFrontDoor(o)
	if err != nil {
		return err
	}
	defer door.close()
	sockets, err := openSockets(o.Listen, 0)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(ErrDraining)

	a := &alone{w: newWorker(o), cancel: cancel}
	n := newNotifier(a.Alive)
	defer n.close()
	a.tell = n.tell
	a.setState(machine.Starting)
	a.w.generation, a.w.id = 1, newInstanceID()
	a.w.onReady = func() { a.setState(machine.Ready) }
	for _, s := range sockets {
		if s.packet != nil {
			a.w.packets[s.name] = func() (net.PacketConn, error) { return s.packet, nil }
			continue
		}
		a.w.sockets[s.name] = func() (net.Listener, error) { return s.lns[0], nil }
	}
	defer a.w.close()
	door.serve(o, a)

	signals := sys.StopSignals()
	defer signal.Stop(signals)
	done := make(chan error, 1)
	go func() {
		appCtx, end := context.WithCancelCause(process.WithWorker(context.WithoutCancel(ctx), a.w))
		defer end(ErrDraining)
		stop := context.AfterFunc(ctx, func() {
			a.stopping.Store(true)
			a.notify()
			end(ErrDraining)
		})
		defer stop()
		done <- app(appCtx)
	}()
	signalled := false // an end of ctx, or clusterctl, is no first signal
	for {
		select {
		case err := <-done:
			return err
		case s := <-signals:
			if signalled {
				return fmt.Errorf("cluster: stopped by a second signal (%v) before the app had ended", s)
			}
			signalled = true
			o.Logger.Info("cluster: stopping", "signal", s.String())
			a.shutdown()
		}
	}
}

func (a *alone) setState(s machine.State) {
	a.state.Store(&s)
	a.notify()
}

func (a *alone) notify() {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := condition{ready: *a.state.Load() == machine.Ready, stopping: a.stopping.Load()}
	c.text = "ready"
	switch {
	case c.stopping:
		c.text = "stopping"
	case !c.ready:
		c.text = "starting"
	}
	a.tell(c)
}

func (a *alone) Alive(context.Context) error { return nil }

func (a *alone) operations() *operations { return &a.ops }

func (a *alone) reload(string, int) error {
	return fmt.Errorf("cluster: no reload with the app in the one process (Options.Workers is 0): %w", errors.ErrUnsupported)
}

func (a *alone) scale(string, int, int) error {
	return fmt.Errorf("cluster: no scale with the app in the one process (Options.Workers is 0): %w", errors.ErrUnsupported)
}

func (a *alone) upgrade(string) error {
	return fmt.Errorf("cluster: no upgrade with the app in the one process (Options.Workers is 0): %w", errors.ErrUnsupported)
}

func (a *alone) profile(ctx context.Context, slot int, kind string, d time.Duration) ([]byte, error) {
	if slot != 0 {
		return nil, fmt.Errorf("cluster: slot %d has no worker", slot)
	}
	return takeProfile(ctx, kind, d)
}

// readLogs: the output of the one process goes where it writes it.
func (a *alone) readLogs() (*logs, error) {
	return nil, fmt.Errorf("cluster: the app in the one process (Options.Workers is 0) writes to its own output: %w", errors.ErrUnsupported)
}

func (a *alone) readExits(int) []exit { return []exit{} }

func (a *alone) shutdown() {
	a.stopping.Store(true)
	a.cancel(ErrDraining)
}

func (a *alone) Health() admin.Health {
	ready := *a.state.Load() == machine.Ready
	h := admin.Health{Started: ready}
	failed := ""
	for _, c := range a.w.results() {
		h.Checks = append(h.Checks, admin.Check{Slot: 0, Name: c.Name, Error: c.Error})
		if c.Error != "" && failed == "" {
			failed = c.Name
		}
	}
	switch {
	case a.stopping.Load():
		h.Reason = "stopping"
	case !ready:
		h.Reason = "not ready yet"
	case failed != "":
		h.Reason = "check failed: " + failed
	default:
		h.Ready = true
	}
	return h
}

func (a *alone) Snapshot(context.Context) admin.Snapshot { return a.Latest() }

func (a *alone) Latest() admin.Snapshot {
	h, f := a.Health(), a.w.frame(a.w.collect())
	state := *a.state.Load()
	if a.stopping.Load() {
		state = machine.Draining
	}
	return admin.Snapshot{
		Time:     time.Now(),
		Ready:    h.Ready,
		Stopping: a.stopping.Load(),
		Workers: []admin.Worker{{
			Generation: 1, PID: os.Getpid(), InstanceID: a.w.id, State: string(state),
			Started: a.w.started, Uptime: time.Since(a.w.started).Seconds(),
			RSS: f.RSS, Heap: f.Heap, Goroutines: f.Goroutines, Connections: connections(f),
			CPU: f.CPU, SchedP99: f.Sched, RPS: f.RPS,
		}},
		Checks:  h.Checks,
		Samples: f.Samples,
	}
}
