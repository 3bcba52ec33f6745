package offload

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

const (
	busyBody = `{"title":"Service Unavailable","status":503,"detail":"The service is busy. Please try again later."}` + "\n"
	lateBody = `{"title":"Gateway Timeout","status":504,"detail":"The request's deadline passed before it could be started."}` + "\n"
)

// Middleware runs the whole of next in the lane: for a handler that does nothing but compute. It gives an overload.Limiter's
// permit back. What the lane refuses is answered with 503, Retry-After and an application/problem+json body; if the request's
// deadline passes while it waits, with 504. A panic goes on in the request's goroutine, with a *PanicError that has its stack.
//
// Options.RunTimeout and the end of the request bound the handler's context, but it is always waited for. A handler that
// writes much to a slow client keeps its worker meanwhile: then use [Do] for the computing only.
func (l *Lane) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ran, err := l.do(&task{ctx: r.Context(), stays: true, thread: func(ctx context.Context) error {
			next.ServeHTTP(w, r.WithContext(ctx))
			return nil
		}})
		var p *PanicError
		switch {
		case errors.As(err, &p):
			if p.Value == nil || p.Value == any(http.ErrAbortHandler) {
				panic(http.ErrAbortHandler)
			}
			panic(p)
		case !ran:
			l.answer(w, err)
		}
	})
}

func (l *Lane) answer(w http.ResponseWriter, err error) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	status, body := http.StatusServiceUnavailable, busyBody
	if errors.Is(err, context.DeadlineExceeded) {
		status, body = http.StatusGatewayTimeout, lateBody
	} else {
		mean := l.opts.RetryAfter
		h.Set("Retry-After", strconv.Itoa(max(1, int((mean/2+rand.N(mean+1)+time.Second-1)/time.Second))))
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}
