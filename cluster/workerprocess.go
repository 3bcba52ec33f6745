//go:build unix

package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"slices"
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
	Packets    map[string]int `json:"packets"`   // the same for packet sockets

	Crash int `json:"crash"` // descriptor of a file for last words, 0 is none

	// Own names the listeners of which each slot has a socket of its own.
	Own []string `json:"own"`
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
	for _, fd := range cfg.Packets {
		syscall.CloseOnExec(fd)
	}
	if cfg.Crash != 0 {
		leaveLastWords(cfg.Crash)
	}
	c, err := sys.InheritedConn(controlFD)
	if err != nil {
		return fmt.Errorf("cluster: a worker's connection to its supervisor: %w", err)
	}
	conn := wire.NewConn(c)

	w := newWorker(o)
	w.slot, w.generation, w.id = cfg.Slot, cfg.Generation, cfg.InstanceID
	var adopted adoptions
	for name, fd := range cfg.Listeners {
		w.sockets[name] = func() (net.Listener, error) {
			ln, err := sys.InheritedListener(fd)
			if err != nil || !slices.Contains(cfg.Own, name) {
				return ln, err
			}
			return adopted.open(name, ln), nil
		}
	}
	for name, fd := range cfg.Packets {
		w.packets[name] = func() (net.PacketConn, error) { return sys.InheritedPacketConn(fd) }
	}
	r := newReporting(w, conn)
	w.onReady = r.ready

	// The context ends when the supervisor says so: one that ends at a signal would make TERM drain without replacement.
	appCtx, cancel := context.WithCancelCause(process.WithWorker(context.WithoutCancel(ctx), w))
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
				adopted.close()
				if r.isReady.Load() { // an app that still starts may ask yet
					w.closeSockets()
				}
			case wire.Adopt:
				adopted.update(m)
			case wire.Share:
				process.Resize(m.Workers, m.Memory)
			case wire.Poll:
				r.ask(m.Poll)
			case wire.Profile:
				go func() {
					done := wire.Message{Type: wire.Profiled, Request: m.Request}
					data, err := takeProfile(appCtx, m.Kind, time.Duration(m.Seconds*float64(time.Second)))
					if done.Data = data; err != nil {
						done.Error = err.Error()
					}
					conn.Send(done)
				}()
			}
		}
	}()
	go func() {
		for {
			select {
			case <-term:
				conn.Send(wire.Message{Type: wire.Replace})
			case <-w.closed:
				return
			}
		}
	}()
	go r.run()
	go r.beat()

	err = app(appCtx)
	w.close()
	r.finish()
	return err
}
