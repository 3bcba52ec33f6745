// Package offload runs heavy computing aside, so that light requests of the same service stay fast: a bounded number of tasks
// at a time, in threads or processes of low priority, with a queue that is bounded in time.
//
//	lane, err := offload.New("images", offload.Options{Workers: 2})
//	...
//	png, err := offload.Do(ctx, lane, func(ctx context.Context) ([]byte, error) { return render(ctx, picture) })
//
// # Why
//
// Go's scheduler shares the processors equally among all goroutines that can run, and lets each run for 10 ms. A handful of
// requests that hash passwords or draw pictures so make every other request wait for tens of milliseconds, however little it
// needs. A pool of goroutines, or a semaphore, bounds the heavy ones but still shares equally; with fewer than there are
// processors it wastes some. Only the operating system can let one thread give way to another at once.
//
// # What it does
//
// [Do] runs a function in a thread that is niced by 10 (Linux has a priority a thread), and each such thread brings a
// processor of Go's scheduler along, so that there are still GOMAXPROCS for the rest. The kernel gives the thread the time
// that nobody else wants, and a small share (a tenth of a core) when all is taken.
//
// [Register] makes a function that runs in another process, also niced: for what allocates much (the garbage collector of
// this process has nothing to do with it), for cgo, for what cannot be trusted. It is the only kind that can be stopped: when
// its context has ended, or it takes too much memory, the process is killed.
//
// [Lane.Middleware] runs whole handlers. All three use the queue, workers and numbers of one lane.
//
// # The queue
//
// A task that finds no worker waits for Options.QueueTimeout at most, and none is let in beyond Options.MaxQueue. Higher
// priorities (overload.WithPriority) come first; a lower one gets a turn every two Options.Aging at the latest. When tasks of
// a priority have waited for a while without a break, the newest comes first. A task whose deadline is nearer than the
// median of the last 64 runs is refused at once. A request that holds a permit of an overload.Limiter gives it back when it
// enters the queue, which guards it from then on.
//
// # Failure
//
// Panics and runtime.Goexit become a *PanicError, and the worker goes on. A task in a thread that ignores the end of its
// context cannot be stopped: its caller gets the context's error at once, the task keeps its worker (Stats: Abandoned,
// Ignored). A process that exits, crashes or is killed gives an *ExitError and is replaced at the next call.
//
// # Where threads are not niced
//
// Under a quota of the control group, or where GOMAXPROCS was set below the number of CPUs, more running threads would use up
// what the whole process may use, and then everything stands still whatever its priority. There a lane adds nothing and has
// max(1, GOMAXPROCS − 1) plain workers, or Options.Workers if that is less. The same where threads cannot be niced: other
// systems than Linux, or a sandbox that forbids setpriority (it is warned of once). Stats().Effective says what holds and why.
// A sandbox must not kill for it: systemd's SystemCallFilter=~@resources does unless setpriority is allowed.
//
// # What it does not do
//
// It is no queue for jobs that outlive their request. It does not bound what a task takes in memory in this process
// ([Weight] helps), nor goroutines that a task starts: they run as all others. While the collector stops all goroutines it
// waits for niced threads too; when that takes above 5 ms at the 99th percentile the lane says so once, and Register is the
// cure. A lane costs nothing until it is used; a process starts in some 10 ms (all packages of the program are initialised
// in it) and stays for Options.IdleTimeout.
package offload
