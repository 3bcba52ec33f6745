//go:build unix

package cluster

import (
	"errors"
	"fmt"

	"github.com/fairlead/fairlead/cluster/internal/machine"
)

func (s *supervisor) operations() *operations { return s.ops }

func (s *supervisor) reload(id string, slot int) error {
	if n := s.status.Load().Open; slot >= n {
		return fmt.Errorf("cluster: there is no slot %d: they are 0 to %d", slot, n-1)
	}
	return s.operate(machine.Reload{Op: id, Slot: slot})
}

func (s *supervisor) scale(id string, to, by int) error {
	return s.operate(machine.Scale{Op: id, To: to, By: by})
}

func (s *supervisor) upgrade(string) error { return errNoUpgrade }

// errNoUpgrade is the answer of a supervisor, which cannot replace itself: its listeners and its counts would be lost.
var errNoUpgrade = fmt.Errorf("cluster: the supervisor cannot be replaced in place; reload replaces its workers: %w", errors.ErrUnsupported)

// operate has the machine start an operation, of whose outcome the operations will learn.
func (s *supervisor) operate(m machine.Message) error {
	if s.status.Load().Stopping {
		return fmt.Errorf("cluster: %w", machine.ErrStopping)
	}
	s.post(m)
	return nil
}
