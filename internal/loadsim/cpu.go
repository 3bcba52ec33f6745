package loadsim

import (
	"container/heap"
	"sync"
	"time"
)

// CPU is a processor that all work under way shares equally, at most a core each, as goroutines do: nothing queues, but
// everything becomes slower. Its capacity is cores ÷ work.
type CPU struct {
	mu    sync.Mutex
	cores float64
	jobs  jobs
	got   float64 // the seconds of a core that work present since the beginning would have got
	last  time.Time
	timer *time.Timer
}

type job struct {
	until float64 // finished when got reaches it
	done  chan struct{}
}

type jobs []job

func (q jobs) Len() int           { return len(q) }
func (q jobs) Less(i, j int) bool { return q[i].until < q[j].until }
func (q jobs) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *jobs) Push(x any)        { *q = append(*q, x.(job)) }
func (q *jobs) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

// NewCPU returns a processor.
func NewCPU(cores float64) *CPU { return &CPU{cores: cores, last: time.Now()} }

// Do returns when the work, in time of a core, has been done.
func (c *CPU) Do(work time.Duration) {
	done := make(chan struct{})
	c.mu.Lock()
	c.advance()
	heap.Push(&c.jobs, job{c.got + work.Seconds(), done})
	c.schedule()
	c.mu.Unlock()
	<-done
}

// Set changes the number of cores.
func (c *CPU) Set(cores float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.advance()
	c.cores = cores
	c.schedule()
}

// share is how much of a core each job gets.
func (c *CPU) share() float64 { return min(1, c.cores/float64(max(1, len(c.jobs)))) }

// advance credits the time since the last change and ends what is finished, to the nanosecond.
func (c *CPU) advance() {
	now := time.Now()
	c.got += now.Sub(c.last).Seconds() * c.share()
	c.last = now
	for len(c.jobs) > 0 && c.jobs[0].until <= c.got+1e-9 {
		close(heap.Pop(&c.jobs).(job).done)
	}
}

func (c *CPU) schedule() {
	if len(c.jobs) == 0 {
		return
	}
	wait := time.Duration((c.jobs[0].until - c.got) / c.share() * float64(time.Second))
	if c.timer != nil {
		c.timer.Reset(max(wait, 1))
		return
	}
	c.timer = time.AfterFunc(max(wait, 1), func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.advance()
		c.schedule()
	})
}
