// Package cluster runs an app in supervised worker processes that share its listening sockets, and replaces them without
// losing a connection.
//
// [Main] starts a small supervisor that owns every listening socket for its whole life and runs the app in
// Options.Workers copies of the same binary. A worker only borrows the sockets: whether it is reloaded, crashes or is
// killed, the socket and its queue stay, and another worker goes on accepting.
//
//	func main() {
//		cluster.Main(app, cluster.Options{
//			Workers: 2,
//			Listen:  []cluster.Listen{{Name: "http", Addr: ":8080"}},
//			Admin:   cluster.Admin{Addr: "127.0.0.1:9090"},
//		})
//	}
//
//	func app(ctx context.Context) error {
//		ln, err := cluster.From(ctx).Listener("http")
//		if err != nil {
//			return err
//		}
//		return drain.Serve(ctx, drain.Options{}, drain.HTTP(&http.Server{Handler: handler}, ln))
//	}
//
// Everything before Main runs in every process; the app runs only in the workers. Main must be reached with the same
// arguments and environment as the first time, and before anything that must happen once a machine.
//
// # What it guarantees
//
//   - A rolling reload loses no connection, provided the app drains (package scale/drain does) and keep-alive clients do not
//     pause for longer than Options.IdleGrace.
//   - A new version that exits or does not become ready is not rolled out: its predecessor keeps serving, slots that had
//     been swapped already are rolled back to the executable they ran before, and the reload reports the error. A reload looks at Ready, not at readiness checks.
//   - A worker that crashes costs the connections it had accepted. It is replaced after 100 ms; one that keeps crashing
//     is restarted with a growing delay of up to 30 s. A service none of whose workers ever became ready ends with an error
//     at the first failure.
//   - When the supervisor dies, even of kill -9, its workers end within about a second. The supervisor reaps orphaned
//     grandchildren.
//   - Counters and histograms in /metrics are sums over the workers and keep what workers counted that are gone.
//
// With a socket a slot (Listen.ReusePort), another worker accepts for a slot while that has none which serves.
//
// # Signals
//
// To the supervisor: TERM and INT stop it gracefully, a second one at once; HUP reloads. Workers stand in process groups of
// their own, so that Ctrl-C does not reach them, and ignore INT and HUP. TERM to a worker asks the supervisor for a
// replacement and drains the worker when that is ready.
//
// # When several workers help, and when not
//
// One Go process already uses all processors; a second one does not make it generally faster. Several workers isolate
// crashes, leaks and long collections from each other. Workers: 1 is enough for hitless reloads. With Workers: 0, and on
// Windows always, the app runs in this process: same listeners, same admin endpoints, no reload.
package cluster
