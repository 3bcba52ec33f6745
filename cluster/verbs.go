//go:build unix

package cluster

import (
	"fmt"
	"strconv"

	"github.com/fairlead/fairlead/cluster/internal/machine"
)

func (s *supervisor) scale(to, by int, done func(error)) error {
	return s.operate(done, func(op string) machine.Message { return machine.Scale{Op: op, To: to, By: by} })
}

func (s *supervisor) upgrade(done func(error)) error {
	return s.operate(done, func(op string) machine.Message { return machine.Upgrade{Op: op} })
}

// operate has the machine start an operation; done is called once, with its outcome.
func (s *supervisor) operate(done func(error), start func(op string) machine.Message) error {
	if s.status.Load().Stopping {
		return fmt.Errorf("cluster: %w", machine.ErrStopping)
	}
	s.post(func() {
		s.lastOp++
		op := strconv.Itoa(s.lastOp)
		s.ops[op] = done
		s.handle(start(op))
	})
	return nil
}
