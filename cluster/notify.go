package cluster

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notifier tells systemd how the service is (Type=notify): READY=1 when the first worker is ready, RELOADING=1 while a
// reload is under way, STOPPING=1, a line of STATUS, and WATCHDOG=1 as long as alive answers. A nil one tells nobody.
type notifier struct {
	alive  func(context.Context) error
	last   condition
	states chan string
	end    context.CancelFunc
	done   sync.WaitGroup
}

// condition is what systemd may know of the service.
type condition struct {
	ready, reloading, stopping bool
	text                       string
}

func newNotifier(alive func(context.Context) error) *notifier {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return nil
	}
	ctx, end := context.WithCancel(context.Background())
	n := &notifier{alive: alive, states: make(chan string, 64), end: end}
	n.done.Go(func() { n.send(ctx) })
	if interval, err := daemon.SdWatchdogEnabled(false); err == nil && interval > 0 {
		n.done.Go(func() { n.watchdog(ctx, interval/2) })
	}
	return n
}

// send also sends what is left at the end.
func (n *notifier) send(ctx context.Context) {
	for {
		select {
		case s := <-n.states:
			daemon.SdNotify(false, s)
			continue
		default:
		}
		select {
		case s := <-n.states:
			daemon.SdNotify(false, s)
		case <-ctx.Done():
			return
		}
	}
}

// watchdog proves that whatever decides still answers; it is asked each time.
func (n *notifier) watchdog(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ask, cancel := context.WithTimeout(ctx, every)
		if n.alive(ask) == nil && ctx.Err() == nil {
			daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
		cancel()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// tell says what has changed. One goroutine at a time may call it; it does not block.
func (n *notifier) tell(c condition) {
	if n == nil || c == n.last {
		return
	}
	before := n.last
	n.last = c
	state := "STATUS=" + c.text
	switch {
	case c.stopping && !before.stopping:
		state += "\n" + daemon.SdNotifyStopping
	case c.stopping:
	case c.reloading && !before.reloading && c.ready:
		state += "\n" + daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec()
	case c.ready && (!before.ready || before.reloading && !c.reloading):
		state += "\n" + daemon.SdNotifyReady
	}
	select {
	case n.states <- state:
	default: // systemd has not read 64 of them
	}
}

func (n *notifier) close() {
	if n == nil {
		return
	}
	n.end()
	n.done.Wait()
}
