package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"time"

	"github.com/fairlead/fairlead/internal/respwriter"
)

// guard puts the service's guards and the middleware around the handler. Telemetry and recover share one writer.
func (s *Service) guard(handler http.Handler, middleware []func(http.Handler) http.Handler) http.Handler {
	inner := routed(handler)
	for _, m := range slices.Backward(middleware) {
		inner = m(inner)
	}
	inner = s.deadline(s.limiter.Middleware(inner))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := &request{began: time.Now()}
		rw := respwriter.New(w, r, func(int) http.HandlerFunc { return nil })
		r = r.WithContext(context.WithValue(r.Context(), requestKey{}, req))
		maps.Copy(w.Header(), s.opts.Header)

		s.traffic.begin()
		aborted := true // unless the handler returns, or its panic was answered
		defer func() { s.traffic.end(req, r.Method, rw.Status(), aborted) }()
		s.recovered(inner, rw, r)
		rw.Finish()
		aborted = false
	})
}

// request is what the outermost guard wants to know from inside. Middleware may pass on a copy of the http.Request, and the
// mux tells its route to the copy.
type request struct {
	began time.Time
	route string // the mux's pattern
}

type requestKey struct{}

func routed(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if req, ok := r.Context().Value(requestKey{}).(*request); ok {
			defer func() { req.route = r.Pattern }()
		}
		handler.ServeHTTP(w, r)
	})
}

// recovered serves and answers a panic, once: with 500 while nothing is out, else by cutting the connection, because a
// client must not take half a response for a whole one.
func (s *Service) recovered(next http.Handler, w *respwriter.Writer, r *http.Request) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if p == http.ErrAbortHandler {
			panic(p)
		}
		route := ""
		if req, ok := r.Context().Value(requestKey{}).(*request); ok {
			route = req.route
		}
		s.opts.Logger.LogAttrs(r.Context(), slog.LevelError, "scale: panic in a handler",
			slog.String("service", s.name), slog.String("method", r.Method), slog.String("route", route),
			slog.String("panic", fmt.Sprint(p)), slog.String("stack", string(debug.Stack())))
		if w.Committed() {
			panic(http.ErrAbortHandler)
		}
		maps.DeleteFunc(w.Header(), func(name string, _ []string) bool { return name != "Connection" })
		maps.Copy(w.Header(), s.opts.Header)
		problem(w, http.StatusInternalServerError, "")
	}()
	next.ServeHTTP(w, r)
}

// problem answers with an RFC 9457 body.
func problem(w http.ResponseWriter, status int, detail string) {
	body, _ := json.Marshal(struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail,omitempty"`
	}{http.StatusText(status), status, detail})
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
