// Package scale is the service around an application's own http.Handler: it looks after the components the handlers use,
// puts the guards every production service needs in front of them, and starts and ends the whole in the right order.
//
//	svc, err := scale.New("shop", scale.Options{})
//	...
//	svc.Use(rdb, db, products, sessions)
//	return svc.Serve(ctx, mux, ratelimit.Middleware(perClient, ratelimit.ClientIP()), sessions.Middleware)
//
// # What Serve does
//
// It serves the listener named "http" of the worker in ctx (package cluster puts it there), or listens on Options.Addr when
// there is none. When ctx ends it drains (package scale/drain), which loses no connection, then closes the components in
// the reverse of the order in which Use was given them, each with a time-out, and returns what went wrong, joined.
//
// # Order of the guards
//
// From outside in: drain (answers with Connection: close once the drain has begun), telemetry, recover, deadline, overload,
// then the middleware given to Serve, outermost first, then the handler.
//
//   - Telemetry counts requests in flight and records a duration histogram by method, route pattern and status class. The
//     route is the pattern of the [http.ServeMux] that was given to Serve; without a match, or with another router, the
//     route is empty. A hijacked connection is not in the histogram.
//   - Recover turns a panic into one log record with its stack and one 500 problem+json. If part of the response is out
//     already, the connection is cut, so that the client can tell. [http.ErrAbortHandler] passes.
//   - Deadline gives every request a context that ends after Options.MaxTimeout, or sooner when the client says how long it
//     will wait: Fairlead-Timeout-Ms (digits, milliseconds), grpc-timeout or x-envoy-expected-rq-timeout-ms. The shortest
//     counts, a malformed one is ignored, and 0 is answered with 504 without starting the handler. The times are relative,
//     so no clocks are compared. It covers streams and hijacked connections too: one that is to live longer takes
//     [context.WithoutCancel] of its request's context and ends at drain.Closing.
//   - Overload (package scale/overload) learns how many requests the service can work on at a time, and answers what is
//     more than that with 503 and Retry-After within milliseconds, fairly by the client's address. A request that enters a lane
//     of scale/offload gives its permit back, and so do streams: one that is hijacked or upgraded, and text/event-stream at
//     its first flush. Options.Overload tunes it, gives it priorities, or switches it off.
//
// # Memory
//
// Without package cluster, Serve sets the Go runtime's memory limit to 0.9 of that of the control group less 64 MB, unless
// GOMEMLIMIT is set (off is also a value) or the program has set one. A cluster's supervisor does that for its workers.
//
// # Components
//
// Use looks for three abilities, by method:
//
//	Ping(context.Context) error     // readiness: /readyz names what fails
//	Close() error  or  Close()      // at the end, in reverse order
//	Samples() iter.Seq[scale.Sample] // the admin page and /metrics
//
// A value that has none of them is a configuration error that Serve reports. Probes and metrics are served by the cluster's
// admin listener, also in one process (Workers: 0); without package cluster there are none.
package scale
