package offload

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/fairlead/fairlead/internal/process"
)

// niceness is that of the threads and processes. 19, or the idle class, would let a thread that holds a lock of the runtime
// wait for a second.
const niceness = 10

// hire starts a worker. With a niced thread comes a processor of Go's scheduler: without it the thread, which hardly runs
// while there is other work, would keep one from the requests.
func (l *Lane) hire() {
	if l.niced && len(l.extra) < l.threads+1 {
		l.extra = append(l.extra, process.AddProcs(1))
	}
	l.threads++
	l.wg.Add(1)
	go l.worker()
}

func (l *Lane) worker() {
	defer l.wg.Done()
	if l.niced {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, its priority with it
		_ = l.sys.nice()
	}
	var current *task
	defer func() { // Goexit ends this goroutine; a loop that is over has no current task
		l.mu.Lock()
		l.threads--
		l.mu.Unlock()
		if current != nil {
			l.finish(current, &PanicError{})
		}
	}()
	for t := range l.work {
		current = t
		err := l.recovered(t.run, t.thread)
		current = nil
		l.finish(t, err)
	}
}

// recovered turns a panic into an error.
func (l *Lane) recovered(ctx context.Context, fn func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{v, debug.Stack()}
		}
	}()
	return fn(ctx)
}

// tryNice finds out in a thread of its own, which ends, whether threads can be niced.
func tryNice(nice func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := nice()
		if err != nil {
			err = fmt.Errorf("nice: %w", err)
		}
		result <- err
	}()
	return <-result
}
