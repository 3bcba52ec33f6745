package drain

import (
	"context"
	"net/http"
	"time"
)

const (
	// tellEvery is the pace at which streams are told while there are few: each comes back at once, somewhere else, and a
	// handshake with TLS costs about a millisecond there.
	tellEvery  = 5 * time.Millisecond
	longSpread = 10 * time.Second
)

type (
	drainKey struct{}
	trackKey struct{}
)

// Closing returns a channel that is closed when the server of the request whose context ctx is has stopped accepting and
// wants this connection to end. Handlers of long streams (server-sent events, WebSockets, long polls) should select on it
// and say good-bye. Connections are not told all at once, see Options.Spread; what asks first during a drain is told
// immediately. In a context that does not come from a server run by [Serve] it is ctx.Done().
func Closing(ctx context.Context) <-chan struct{} {
	if t, ok := ctx.Value(trackKey{}).(*track); ok {
		return t.closingChannel()
	}
	if d, ok := ctx.Value(drainKey{}).(*drainer); ok {
		return d.closing
	}
	return ctx.Done()
}

func (t *track) closingChannel() <-chan struct{} {
	t.d.mu.Lock()
	defer t.d.mu.Unlock()
	if t.closing == nil {
		t.closing = make(chan struct{})
		if t.d.draining.Load() {
			close(t.closing)
			t.told = true
		}
	}
	return t.closing
}

// spread is how long telling n streams takes, in a drain of timeout.
func (d *drainer) spread(n int, timeout time.Duration) time.Duration {
	most := min(timeout/2, longSpread)
	if d.opts.Spread != 0 {
		most = min(max(0, d.opts.Spread), timeout)
	}
	return min(time.Duration(n)*tellEvery, most)
}

// beginClosing makes draining true and tells the streams that there are, one after the other. Each has the same time from
// then to its deadline, so that those which do not listen do not end all at once either.
func (d *drainer) beginClosing(ctx context.Context, timeout time.Duration) {
	d.mu.Lock()
	d.started = time.Now()
	d.draining.Store(true)
	var streams []*track
	for t := range d.conns {
		if t.closing != nil || t.hijacked() {
			streams = append(streams, t)
		}
	}
	d.farewell = timeout - d.spread(len(streams), timeout)
	d.mu.Unlock()
	close(d.closing)
	if len(streams) == 0 {
		return
	}
	pace := d.spread(len(streams), timeout) / time.Duration(len(streams))
	go func() {
		for i, t := range streams {
			select {
			case <-time.After(time.Until(d.started.Add(time.Duration(i) * pace))):
			case <-ctx.Done():
				pace = 0 // at the end of the drain it is told to all that are left
			}
			t.tell()
		}
	}()
}

func (t *track) tell() {
	t.d.mu.Lock()
	if t.closing != nil && !t.told {
		close(t.closing)
	}
	t.told = true
	t.d.mu.Unlock()
	if t.hijacked() {
		t.limitReads(time.Now().Add(t.d.farewell))
	}
}

func (t *track) hijacked() bool { return http.ConnState(t.state.Load()) == http.StateHijacked }

// limitReads makes reads fail at the given time, whatever deadline the handler sets.
func (t *track) limitReads(at time.Time) {
	t.dmu.Lock()
	defer t.dmu.Unlock()
	t.limit = at
	if t.deadline.IsZero() || t.deadline.After(at) {
		t.raw.SetReadDeadline(at)
	}
}

// setReadDeadline is what the wrappers make of SetReadDeadline.
func (t *track) setReadDeadline(at time.Time) error {
	t.dmu.Lock()
	defer t.dmu.Unlock()
	t.deadline = at
	if !t.limit.IsZero() && (at.IsZero() || at.After(t.limit)) {
		at = t.limit
	}
	return t.raw.SetReadDeadline(at)
}

func (t *track) setDeadline(at time.Time) error {
	if err := t.raw.SetWriteDeadline(at); err != nil {
		return err
	}
	return t.setReadDeadline(at)
}
