package scale

import (
	"context"
	"math"
	"net/http"
	"strconv"
	"time"
)

// deadline bounds the request's context by what the client says it will wait and by Options.MaxTimeout.
func (s *Service) deadline(next http.Handler) http.Handler {
	limit := s.opts.MaxTimeout
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, ok := clientTimeout(r.Header)
		switch {
		case ok && d == 0:
			problem(w, http.StatusGatewayTimeout, "The request's deadline had passed when it arrived.")
			return
		case limit > 0 && (!ok || d > limit):
			d = limit
		case !ok:
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), d)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// clientTimeout is the shortest well-formed time-out among the headers that carry one.
func clientTimeout(h http.Header) (shortest time.Duration, ok bool) {
	consider := func(d time.Duration, good bool) {
		if good && (!ok || d < shortest) {
			shortest, ok = d, true
		}
	}
	for _, v := range h["Fairlead-Timeout-Ms"] {
		consider(digits(v, time.Millisecond))
	}
	for _, v := range h["X-Envoy-Expected-Rq-Timeout-Ms"] {
		consider(digits(v, time.Millisecond))
	}
	for _, v := range h["Grpc-Timeout"] {
		consider(grpcTimeout(v))
	}
	return shortest, ok
}

// digits reads a whole number of units. What does not fit is as long as a time.Duration can be.
func digits(v string, unit time.Duration) (time.Duration, bool) {
	if v == "" {
		return 0, false
	}
	for i := range len(v) {
		if v[i] < '0' || v[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n > math.MaxInt64/int64(unit) {
		return math.MaxInt64, true
	}
	return time.Duration(n) * unit, true
}

var grpcUnits = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

// grpcTimeout reads gRPC's header: at most 8 digits and a unit (gRPC over HTTP/2, "Timeout").
func grpcTimeout(v string) (time.Duration, bool) {
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	unit, ok := grpcUnits[v[len(v)-1]]
	if !ok {
		return 0, false
	}
	return digits(v[:len(v)-1], unit)
}
