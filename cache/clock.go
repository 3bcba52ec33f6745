package cache

import (
	"context"
	"sync/atomic"
	"time"
)

// clock counts nanoseconds since the cache was made, monotonic. now is exact; hit, for the path that must cost nothing, is
// behind it by up to coarseTick (and by as much as the scheduler is late) while hits keep coming, for reading the time costs
// as much as the rest of a hit.
type clock struct {
	base    time.Time
	ctx     context.Context // ends the goroutine
	coarse  atomic.Int64    // 0 while no goroutine keeps it
	running atomic.Bool
	used    atomic.Bool
}

const (
	coarseTick = 5 * time.Millisecond
	coarseIdle = 20 // ticks without a hit, after which the goroutine ends
)

func (c *clock) now() int64 { return int64(time.Since(c.base)) }

func (c *clock) hit() int64 {
	if t := c.coarse.Load(); t != 0 {
		if !c.used.Load() {
			c.used.Store(true)
		}
		return t
	}
	if c.running.CompareAndSwap(false, true) {
		go c.keep()
	}
	return c.now()
}

func (c *clock) keep() {
	tick := time.NewTicker(coarseTick)
	defer tick.Stop()
	defer c.running.Store(false)
	defer c.coarse.Store(0)
	for n := 1; c.ctx.Err() == nil; n++ {
		c.coarse.Store(c.now())
		if n%coarseIdle == 0 && !c.used.Swap(false) {
			return
		}
		select {
		case <-tick.C:
		case <-c.ctx.Done():
		}
	}
}
