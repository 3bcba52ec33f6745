//go:build unix

package cluster

import (
	"testing"

	"github.com/fairlead/fairlead/cluster/internal/machine"
	"github.com/fairlead/fairlead/cluster/internal/wire"
)

func TestAWorkerThatNeverReportedDoesNotPass(t *testing.T) {
	s := &supervisor{totals: newTotals()}
	s.status.Store(&status{Status: machine.Status{Slots: []machine.SlotStatus{{Workers: []machine.Worker{{ID: 1, State: machine.Ready}}}}}})
	s.totals.add(1, func(uint64) {})
	if h := s.Health(); h.Ready || h.Reason != "the worker has not reported" {
		t.Errorf("without a frame: %+v", h)
	}
	s.totals.update(1, &wire.Frame{Checks: []wire.Check{{Name: "db", Error: "down"}}}, 0)
	if h := s.Health(); h.Ready || h.Reason != "check failed: db" {
		t.Errorf("with a check that fails: %+v", h)
	}
	s.totals.update(1, &wire.Frame{Checks: []wire.Check{{Name: "db"}}}, 0)
	if h := s.Health(); !h.Ready {
		t.Errorf("with one that passes: %+v", h)
	}
}
