//go:build unix

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/sys"
	"github.com/fairlead/fairlead/cluster/internal/wire"
	"github.com/fairlead/fairlead/internal/process"
)

const canSupervise = true

// workerConfig travels to a worker in its environment.
type workerConfig struct {
	Slot       int            `json:"slot"`
	Generation int            `json:"generation"`
	InstanceID string         `json:"instance_id"`
	Listeners  map[string]int `json:"listeners"` // name to descriptor

	// Others are the sockets of the other slots, where each has its own: name to slot to descriptor.
	Others map[string]map[int]int `json:"others"`
}

// controlFD is the worker's descriptor of its connection to the supervisor; the listeners follow.
const controlFD = 3

func runWorker(ctx context.Context, app func(context.Context) error, o Options, role process.Role) error {
	term := sys.WorkerSignals()
	sys.SetName()
	var cfg workerConfig
	if err := json.Unmarshal([]byte(role.Config), &cfg); err != nil {
		return fmt.Errorf("cluster: a worker's environment: %w", err)
	}
	for _, fd := range cfg.Listeners {
		syscall.CloseOnExec(fd) // before the app can start a program
	}
	for _, others := range cfg.Others {
		for _, fd := range others {
			syscall.CloseOnExec(fd)
		}
	}
	c, err := sys.InheritedConn(controlFD)
	if err != nil {
		return fmt.Errorf("cluster: a worker's connection to its supervisor: %w", err)
	}
	conn := wire.NewConn(c)

	w := newWorker(o)
	w.slot, w.generation, w.id = cfg.Slot, cfg.Generation, cfg.InstanceID
	var adopters []*slotListener // guarded by w.mu, under which Listener opens a socket
	var adopted []int
	for name, fd := range cfg.Listeners {
		w.sockets[name] = func() (net.Listener, error) {
			ln, err := sys.InheritedListener(fd)
			if err != nil || cfg.Others[name] == nil {
				return ln, err
			}
			l := newSlotListener(ln, cfg.Others[name])
			l.adopt(adopted)
			adopters = append(adopters, l)
			return l, nil
		}
	}
	var sending sync.Mutex // a frame is sent before a newer one is made
	send := func(poll uint64) {
		sending.Lock()
		defer sending.Unlock()
		conn.Send(wire.Message{Type: wire.Update, Poll: poll, Frame: w.frame()})
	}
	w.onReady = func() {
		send(0) // with the checks, so that readiness is not claimed without them
		conn.Send(wire.Message{Type: wire.Ready})
	}

	appCtx, cancel := context.WithCancelCause(process.WithWorker(ctx, w))
	defer cancel(ErrDraining)
	go func() {
		for {
			m, err := conn.Receive()
			if err != nil {
				w.orphaned.Store(true)
				cancel(ErrOrphaned)
				time.AfterFunc(orphanKill, func() { os.Exit(1) })
				return
			}
			switch m.Type {
			case wire.Drain:
				w.replaced.Store(!m.Stopping)
				cancel(ErrDraining)
			case wire.Adopt:
				w.mu.Lock()
				adopted = m.Slots
				for _, l := range adopters {
					l.adopt(adopted)
				}
				w.mu.Unlock()
			case wire.Poll:
				send(m.Poll)
			}
		}
	}()
	go func() {
		tick := time.NewTicker(frameEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				send(0)
			case <-term:
				conn.Send(wire.Message{Type: wire.Replace})
			case <-w.closed:
				return
			}
		}
	}()

	err = app(appCtx)
	w.close()
	send(0)
	return err
}
