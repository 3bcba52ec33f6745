//go:build unix

package cluster

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/fairlead/fairlead/cluster/internal/machine"
	"github.com/fairlead/fairlead/cluster/internal/sys"
)

// boundSocket is a socket as bare descriptors: the supervisor keeps it open and never accepts from it, so arriving
// connections must not wake it up.
type boundSocket struct {
	*socket
	fds  []int
	file os.FileInfo // of a unix socket
}

// detach turns what was opened into descriptors.
func (b *boundSocket) detach() error {
	var opened []io.Closer
	if b.packet != nil {
		opened = append(opened, b.packet)
	}
	for _, ln := range b.lns {
		opened = append(opened, ln)
	}
	b.lns = nil
	var errs []error
	for _, c := range opened {
		fd, err := sys.Detach(c)
		if err != nil {
			errs = append(errs, fmt.Errorf("cluster: listener %q: %w", b.name, err))
			continue
		}
		b.fds = append(b.fds, fd)
	}
	return errors.Join(errs...)
}

// of is the socket's descriptor for a slot, by index.
func (b *boundSocket) of(slot int) int {
	if len(b.fds) == 1 {
		return 0
	}
	return slot
}

// grow gives each of so many slots a socket of its own, where they have that. Those of slots that have gone are kept: a
// queue dies with its socket, and the kernel knows sockets by their places.
func (b *boundSocket) grow(slots int) error {
	for b.shared != "" && len(b.fds) < slots {
		ln, err := listenShared(b.shared)
		if err != nil {
			return fmt.Errorf("cluster: listener %q: %w", b.name, err)
		}
		fd, err := sys.Detach(ln)
		if err != nil {
			return fmt.Errorf("cluster: listener %q: %w", b.name, err)
		}
		b.fds = append(b.fds, fd)
	}
	return nil
}

// servingSlots are the slots that new connections should go to: those with a worker that is ready, and not suspect.
func servingSlots(st machine.Status) []int {
	var live []int
	for i, slot := range st.Slots {
		for _, w := range slot.Workers {
			if w.State == machine.Ready {
				live = append(live, i)
				break
			}
		}
	}
	return live
}

// steer keeps new connections off slots that do not serve. Where none does, or the kernel refuses, they go to all, and it
// is left to adoption to empty the queues.
func (b *boundSocket) steer(live []int) error {
	if len(b.fds) < 2 {
		return nil
	}
	var places []int
	for _, slot := range live {
		if slot < len(b.fds) {
			places = append(places, slot)
		}
	}
	if len(places) == 0 {
		return nil
	}
	return sys.Steer(b.fds[0], places)
}

// conditionOf is what systemd may know of a status.
func conditionOf(st machine.Status) condition {
	ready, gone := len(servingSlots(st)), true
	for _, slot := range st.Slots {
		gone = gone && len(slot.Workers) == 0
	}
	c := condition{ready: st.Booted, reloading: st.Rolling, stopping: st.Stopping}
	switch {
	case st.Stopping && gone:
		c.text = "stopped"
	case st.Stopping:
		c.text = "stopping"
	default:
		c.text = fmt.Sprintf("%d of %d workers ready", ready, st.Open)
	}
	return c
}

// steer tells the kernel which slots serve, when that has changed.
func (s *supervisor) steer(live []int) {
	if slices.Equal(live, s.steered) {
		return
	}
	s.steered = live
	for _, b := range s.spawner.sockets {
		if err := b.steer(live); err != nil && !s.cannotSteer {
			s.cannotSteer = true
			s.log(slog.LevelInfo, "the kernel spreads new connections over all slots, also those that do not serve", "error", err)
		}
	}
}
