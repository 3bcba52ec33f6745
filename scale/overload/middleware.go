package overload

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead/fairlead/internal/respwriter"
)

// Middleware lets a request pass with a permit, which it gives back when next returns or panics. A refusal is 503 with
// Retry-After and an application/problem+json body.
//
// A request whose connection is taken over (a WebSocket), or whose answer is text/event-stream, gives its permit back when
// that begins, and is not measured: it would hold the permit for as long as somebody watches. Put it outside what costs
// anything, inside whatever bounds requests by a deadline.
func (l *Limiter) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		priority := PriorityFrom(ctx)
		if l.opts.Priority != nil {
			if priority = l.opts.Priority(r).known(); priority != PriorityFrom(ctx) {
				ctx = WithPriority(ctx, priority)
			}
		}
		p, err := l.acquire(ctx, priority, "", r)
		if err != nil {
			l.answer(w, err)
			return
		}
		defer l.release(p)
		rw := respwriter.New(w, r, func(status int) http.HandlerFunc {
			if status == http.StatusSwitchingProtocols || r.Method == http.MethodConnect || isEventStream(w.Header().Get("Content-Type")) {
				if l.withdraw(p) {
					l.counts.streams.Add(1)
				}
			}
			return nil
		})
		next.ServeHTTP(rw, r.WithContext(p))
	})
}

// isEventStream leaves parameters such as a charset aside.
func isEventStream(contentType string) bool {
	const eventStream = "text/event-stream"
	kind, _, _ := strings.Cut(contentType, ";")
	return strings.EqualFold(strings.TrimSpace(kind), eventStream)
}

const (
	busyBody = `{"title":"Service Unavailable","status":503,"detail":"The service is busy. Please try again later."}` + "\n"
	lateBody = `{"title":"Gateway Timeout","status":504,"detail":"The request's deadline passed before it could be started."}` + "\n"
)

// answer turns a request away.
func (l *Limiter) answer(w http.ResponseWriter, err error) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	status, body := http.StatusServiceUnavailable, busyBody
	if errors.Is(err, context.DeadlineExceeded) {
		status, body = http.StatusGatewayTimeout, lateBody
	} else {
		h.Set("Retry-After", strconv.Itoa(l.retryAfter()))
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

// retryAfter is spread over whole seconds, at least 1.
func (l *Limiter) retryAfter() int {
	mean := l.opts.RetryAfter
	d := mean/2 + rand.N(mean+1)
	return max(1, int((d+time.Second-1)/time.Second))
}

// peer is the address at the other end of the connection, of IPv6 the /64, which is what one customer gets.
func peer(r *http.Request) string {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return "" // a unix socket
	}
	a := ap.Addr().Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64)
		return p.String()
	}
	return a.String()
}
