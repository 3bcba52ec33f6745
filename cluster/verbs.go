//go:build unix

package cluster

import (
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

func (s *supervisor) upgrade(id string) error { return s.operate(machine.Upgrade{Op: id}) }

// operate has the machine start an operation, of whose outcome the operations will learn.
func (s *supervisor) operate(m machine.Message) error {
	if s.status.Load().Stopping {
		return fmt.Errorf("cluster: %w", machine.ErrStopping)
	}
	s.post(m)
	return nil
}
