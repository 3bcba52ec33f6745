//go:build unix

package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/fairlead/fairlead/cluster/internal/machine"
	"github.com/fairlead/fairlead/cluster/internal/sys"
	"github.com/fairlead/fairlead/cluster/internal/wire"
)

// What clusterctl reads of a supervisor.

func (s *supervisor) readLogs() (*logs, error) { return s.spawner.logs, nil }

func (s *supervisor) readExits(slot int) []exit { return s.exits.of(slot) }

// profile asks the slot's worker that is ready, or else whichever it has.
func (s *supervisor) profile(ctx context.Context, slot int, kind string, d time.Duration) ([]byte, error) {
	found := make(chan *proc, 1)
	s.post(func() {
		var p *proc
		if slots := s.machine.Status().Slots; slot < len(slots) {
			for _, w := range slots[slot].Workers {
				if q := s.procs[w.ID]; q != nil && (p == nil || w.State == machine.Ready) {
					p = q
				}
			}
		}
		found <- p
	})
	select {
	case p := <-found:
		if p == nil {
			return nil, fmt.Errorf("cluster: slot %d has no worker", slot)
		}
		m, err := p.ask(ctx, wire.Message{Type: wire.Profile, Kind: kind, Seconds: d.Seconds()})
		return m.Data, err
	case <-s.done:
		return nil, errors.New("cluster: the service has ended")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// recordExit keeps a worker's last words when all of them are there.
func (s *supervisor) recordExit(p *proc, e sys.Exit) {
	x := p.end
	x.Time, x.Status, x.OK = time.Now(), e.Status, e.OK
	p.words.tell(&x)
	s.exits.add(x)
	if x.Reason != "" {
		s.post(func() {
			s.log(slog.LevelError, "last words", "slot", x.Slot, "generation", x.Generation, "pid", x.PID, "exit", x.Status, "reason", x.Reason)
		})
	}
}

// logText is a message of the supervisor among the lines of workers.
func logText(l machine.Log) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "[cluster] %s %s", l.Level, l.Text)
	for i := 0; i+1 < len(l.Args); i += 2 {
		value := fmt.Sprint(l.Args[i+1])
		if strings.ContainsAny(value, " \t\n\"=") {
			value = fmt.Sprintf("%q", value)
		}
		fmt.Fprintf(&b, " %v=%s", l.Args[i], value)
	}
	b.WriteByte('\n')
	return []byte(b.String())
}
