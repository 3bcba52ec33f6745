package offload

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/fairlead/fairlead/internal/process"
	"github.com/fairlead/fairlead/scale/overload"
)

// Lane runs heavy tasks aside from the requests: a bounded number at a time, of lower priority than everything else in the
// process, with a queue that is bounded in time. It is safe for concurrent use.
type Lane struct {
	name string
	opts Options
	sys  system

	capacity  int // weights that may run at a time
	niced     bool
	effective string

	counts counts
	pauses pauses

	mu        sync.Mutex
	closed    bool
	queue     queue
	running   int // weights
	tasks     int // that run
	abandoned int // of those: the caller has gone
	runs      runs
	threads   int // workers there are
	busy      int // tasks given to them
	extra     []func()
	work      chan *task // to the workers; room for all
	children  children
	wg        sync.WaitGroup // workers, and tasks in processes
}

// system is what the operating system allows. Tests put in others.
type system struct {
	nice  func() error  // lowers the calling thread's priority
	limit func() string // why no processors may be added; empty: they may
}

var thisSystem = system{nice: niceThread, limit: process.ProcsLimit}

// New returns a lane. The name, not empty, is an attribute of its metrics. Threads and processes start when they are needed.
func New(name string, options Options) (*Lane, error) { return newLane(name, options, thisSystem) }

func newLane(name string, options Options, sys system) (*Lane, error) {
	err := options.validate()
	if name == "" {
		err = errors.Join(errors.New("offload: name is empty: must name the lane"), err)
	}
	if err != nil {
		return nil, err
	}
	o := options.withDefaults()
	l := &Lane{name: name, opts: o, sys: sys, capacity: o.Workers, queue: queue{aging: o.Aging, standing: o.StandingAfter}}
	plain := func(why string) {
		l.capacity = min(o.Workers, max(1, process.BaseProcs()-1))
		l.effective = fmt.Sprintf("%d plain workers: %s", l.capacity, why)
	}
	switch why := sys.limit(); {
	case why != "":
		plain(why)
	default:
		if err := tryNice(sys.nice); err != nil {
			plain(err.Error())
			warnOnce.Do(func() {
				o.Logger.Warn("offload: threads cannot be niced: tasks compete with requests", slog.String("lane", name), slog.Any("error", err))
			})
			break
		}
		l.niced = true
		l.effective = fmt.Sprintf("%d niced threads", l.capacity)
	}
	l.work = make(chan *task, o.Workers)
	l.children.lane = l
	return l, nil
}

var warnOnce sync.Once

// task is one call. Its fields after the queue's are guarded by the lane's mutex.
type task struct {
	ctx      context.Context // the caller's
	priority overload.Priority
	weight   int
	queued   time.Time
	stays    bool // the caller waits for the end of the task whatever happens
	thread   func(context.Context) error
	process  func(context.Context) error // instead of thread

	place     *list.Element // in the queue; nil when it has left
	run       context.Context
	cancel    context.CancelFunc
	began     time.Time
	unwatch   func() bool
	finished  bool // the task is over, or was never begun
	left      bool // the caller has its answer already
	abandoned time.Time
	err       error
	done      chan struct{} // closed when the caller may go on
}

// do runs a task in the lane and returns its error, with ran false if the task has not ended by then, or was never begun.
func (l *Lane) do(t *task) (ran bool, err error) {
	if err := t.ctx.Err(); err != nil {
		return false, err
	}
	t.priority, t.weight, t.done = overload.PriorityFrom(t.ctx), weightOf(t.ctx, l.capacity), make(chan struct{})

	l.mu.Lock()
	now := time.Now()
	t.queued = now
	if err := l.admit(now, t); err != nil {
		l.mu.Unlock()
		return false, l.refused(err)
	}
	waits := t.place != nil
	l.mu.Unlock()
	overload.Release(t.ctx) // the lane's own queue guards what follows

	if waits {
		timer := time.NewTimer(l.opts.QueueTimeout)
		defer timer.Stop()
		select {
		case <-t.done:
		case <-t.ctx.Done():
			l.withdraw(t, t.ctx.Err())
		case <-timer.C:
			l.withdraw(t, ErrQueueTimeout)
		}
	}
	<-t.done
	l.mu.Lock()
	ran, err = !t.left, t.err
	l.mu.Unlock()
	if t.began.IsZero() {
		return false, l.refused(err)
	}
	return ran, err
}

// admit starts a task or lets it wait.
func (l *Lane) admit(now time.Time, t *task) error {
	if l.closed {
		return ErrClosed
	}
	if l.tooLate(now, t) {
		return ErrDeadline
	}
	if l.queue.n == 0 && l.running+t.weight <= l.capacity {
		l.start(now, t)
		return nil
	}
	if l.queue.n >= l.opts.MaxQueue {
		victim := l.queue.victim(t.priority)
		if l.opts.MaxQueue == 0 || victim == nil {
			return ErrQueueFull
		}
		l.queue.remove(victim)
		l.turnAway(victim, ErrQueueFull)
	}
	l.queue.push(now, t)
	l.pump(now)
	return nil
}

// tooLate says whether a task could not be expected to end by its deadline. When nothing has run for a second the median is
// old: then one task may show how long it takes now, or a slow minute would be remembered for ever.
func (l *Lane) tooLate(now time.Time, t *task) bool {
	deadline, ok := t.ctx.Deadline()
	if !ok || deadline.Sub(now) >= l.runs.median {
		return false
	}
	return l.running > 0 || now.Sub(l.runs.last) < time.Second
}

// withdraw ends the waiting of a task, if it still waits.
func (l *Lane) withdraw(t *task, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.place == nil {
		return
	}
	l.queue.remove(t)
	l.turnAway(t, why)
	l.pump(time.Now()) // a heavy one may have stood in the way of lighter ones
}

func (l *Lane) turnAway(t *task, why error) {
	t.err, t.finished = why, true
	close(t.done)
}

// pump starts what may start.
func (l *Lane) pump(now time.Time) {
	for {
		t := l.queue.next(now)
		if t == nil || l.running+t.weight > l.capacity {
			return // a heavy task waits until there is room, and the others behind it, or it would never have its turn
		}
		l.queue.served(now, t)
		switch {
		case t.ctx.Err() != nil:
			l.turnAway(t, t.ctx.Err())
		case now.Sub(t.queued) >= l.opts.QueueTimeout:
			l.turnAway(t, ErrQueueTimeout)
		case l.tooLate(now, t):
			l.turnAway(t, ErrDeadline)
		default:
			l.start(now, t)
		}
	}
}

// start gives a task to a worker or a process.
func (l *Lane) start(now time.Time, t *task) {
	l.running += t.weight
	l.tasks++
	t.began = now
	l.counts.wait.Record(now.Sub(t.queued))
	t.run, t.cancel = t.ctx, func() {}
	if d := l.opts.RunTimeout; d > 0 {
		t.run, t.cancel = context.WithTimeoutCause(t.ctx, d,
			fmt.Errorf("offload: %s: the task ran for %v: %w", l.name, d, context.DeadlineExceeded))
	}
	if !t.stays {
		t.unwatch = context.AfterFunc(t.run, func() { l.abandon(t) })
	}
	if t.process != nil {
		l.wg.Add(1)
		go func() {
			defer l.wg.Done()
			l.finish(t, l.recovered(t.run, t.process))
		}()
		return
	}
	l.busy++
	if l.threads < l.busy {
		l.hire()
	}
	l.work <- t
}

// abandon lets the caller go when its context has ended, or the task's time is up, and the task has not.
func (l *Lane) abandon(t *task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.finished {
		return
	}
	l.abandoned++
	t.left, t.abandoned, t.err = true, time.Now(), t.ctx.Err()
	if t.err == nil {
		t.err = context.Cause(t.run)
	}
	close(t.done)
}

// overran is how long after the end of its context a task is taken to ignore it.
const overran = 100 * time.Millisecond

// finish takes note of a task that has ended.
func (l *Lane) finish(t *task, err error) {
	if t.unwatch != nil {
		t.unwatch()
	}
	t.cancel()
	l.mu.Lock()
	now := time.Now()
	took := now.Sub(t.began)
	l.counts.ran.Add(1) // before the caller may look
	l.counts.run.Record(took)
	var p *PanicError
	if errors.As(err, &p) {
		l.counts.panics.Add(1)
	}
	l.running -= t.weight
	l.tasks--
	if t.process == nil {
		l.busy--
	}
	l.runs.add(now, took)
	t.finished = true
	if t.left {
		l.abandoned--
		if now.Sub(t.abandoned) > overran {
			l.counts.ignored.Add(1)
		}
	} else {
		t.err = err
		close(t.done)
	}
	if !l.closed {
		l.pump(now)
	}
	l.mu.Unlock()
	if l.niced {
		l.pauses.look(now, func(p99 time.Duration) {
			l.opts.Logger.Warn("offload: the garbage collector waits for niced threads: move what allocates to a process with offload.Register",
				slog.String("lane", l.name), slog.Duration("p99_of_stopping", p99))
		})
	}
}

// refused counts why a task was not run.
func (l *Lane) refused(err error) error {
	switch err {
	case ErrQueueFull:
		l.counts.full.Add(1)
	case ErrQueueTimeout:
		l.counts.timeouts.Add(1)
	case ErrDeadline:
		l.counts.deadline.Add(1)
	case ErrClosed:
	default:
		l.counts.gone.Add(1)
		return err
	}
	return fmt.Errorf("%w: %s", err, l.name)
}

// Saturated says whether a task given now would wait behind others that have waited for a while, or be refused: a handler
// then leaves out what is optional, or serves an older result.
func (l *Lane) Saturated() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running < l.capacity {
		return false
	}
	return l.queue.n >= l.opts.MaxQueue || l.queue.anyStands(time.Now())
}

// Close refuses what waits and what comes, with ErrClosed, waits for what runs, ends the processes and gives the processors
// back. A task in a thread that does not return keeps Close waiting. It is idempotent.
func (l *Lane) Close() error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	if first {
		for t := l.queue.next(time.Now()); t != nil; t = l.queue.next(time.Now()) {
			l.queue.remove(t)
			l.turnAway(t, ErrClosed)
		}
		close(l.work)
	}
	l.mu.Unlock()
	l.wg.Wait()
	l.mu.Lock()
	extra := l.extra
	l.extra = nil
	l.mu.Unlock()
	for _, release := range extra {
		release()
	}
	l.children.close()
	return nil
}
