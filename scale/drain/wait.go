package drain

import (
	"context"
	"net"
	"net/http"
	"time"
)

// adopt makes the HTTP servers tell the drainer what their connections do.
func (d *drainer) adopt(servers []Server) {
	seen := make(map[*http.Server]bool)
	for _, s := range servers {
		if s.http == nil || seen[s.http] {
			continue
		}
		seen[s.http] = true
		srv := s.http

		next := srv.Handler
		if next == nil {
			next = http.DefaultServeMux
		}
		srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if d.draining.Load() {
				w.Header().Set("Connection", "close")
			}
			next.ServeHTTP(w, r)
		})

		connState := srv.ConnState
		srv.ConnState = func(c net.Conn, s http.ConnState) {
			if t := trackOf(c); t != nil {
				t.setState(s)
			}
			if connState != nil {
				connState(c, s)
			}
		}

		connContext := srv.ConnContext
		srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			if t := trackOf(c); t != nil {
				ctx = context.WithValue(ctx, trackKey{}, t)
			}
			if connContext != nil {
				ctx = connContext(ctx, c)
			}
			return ctx
		}

		baseContext := srv.BaseContext
		srv.BaseContext = func(ln net.Listener) context.Context {
			if baseContext == nil {
				return d.base
			}
			ctx, cancel := context.WithCancel(context.WithValue(baseContext(ln), drainKey{}, d))
			context.AfterFunc(d.base, cancel)
			return ctx
		}
	}
}

// awaitQuiet waits until no HTTP connection is left but those that have been silent for grace; false if ctx ends first.
func (d *drainer) awaitQuiet(ctx context.Context, grace time.Duration) bool {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for !d.quiet(time.Now(), grace) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

func (d *drainer) quiet(now time.Time, grace time.Duration) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for t := range d.conns {
		if t.http && !t.silent(now, d.started, grace) {
			return false
		}
	}
	return true
}

// silent says whether no request is under way, or arriving, on t, and none has been for grace.
func (t *track) silent(now, started time.Time, grace time.Duration) bool {
	switch http.ConnState(t.state.Load()) {
	case http.StateNew, http.StateIdle:
	default:
		return false
	}
	return now.Sub(started)-time.Duration(t.heard.Load()) >= grace
}

// shutdown ends the HTTP servers and returns how many connections it had to cut.
func (d *drainer) shutdown(servers []Server) int {
	// What never sent a byte is closed here: Shutdown would wait five seconds for it.
	d.closeAll(func(t *track) bool { return t.http && http.ConnState(t.state.Load()) == http.StateNew })
	cut := d.count(func(t *track) bool {
		s := http.ConnState(t.state.Load())
		return t.http && (s == http.StateActive || s == http.StateHijacked)
	})
	ctx, cancel := context.WithTimeout(context.Background(), d.lastWord)
	if cut > 0 {
		cancel()
	}
	defer cancel()
	seen := make(map[*http.Server]bool)
	for _, s := range servers {
		if s.http == nil || seen[s.http] {
			continue
		}
		seen[s.http] = true
		if s.http.Shutdown(ctx) != nil {
			s.http.Close()
		}
	}
	d.closeAll(func(t *track) bool { return t.http })
	return cut
}

func (d *drainer) count(which func(*track) bool) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for t := range d.conns {
		if which(t) {
			n++
		}
	}
	return n
}

func (d *drainer) closeAll(which func(*track) bool) {
	d.mu.Lock()
	var closing []*track
	for t := range d.conns {
		if which(t) {
			closing = append(closing, t)
		}
	}
	d.mu.Unlock()
	for _, t := range closing {
		t.conn.Close()
		t.gone()
	}
}
