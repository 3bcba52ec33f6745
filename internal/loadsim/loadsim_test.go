package loadsim

import (
	"context"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestOpenLoopIsPoissonAndRepeats(t *testing.T) {
	var offered [3]int
	for i, seed := range []uint64{1, 1, 2} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			r := Run(Load{Rate: Constant(1000), For: 10 * time.Second, Work: Exactly(0), Seed: seed},
				func(context.Context, Request) Outcome { return Served })
			offered[i] = r.Between(0, time.Minute, nil).Offered
			if took := time.Since(began); took < 9*time.Second || took > 10*time.Second {
				t.Errorf("arrivals took %v", took)
			}
			// The variance of a Poisson process's counts is their mean.
			var sum, squares float64
			for tenth := range 100 {
				n := float64(r.Between(time.Duration(tenth)*100*time.Millisecond, time.Duration(tenth+1)*100*time.Millisecond, nil).Offered)
				sum, squares = sum+n, squares+n*n
			}
			mean := sum / 100
			if ratio := (squares/100 - mean*mean) / mean; ratio < 0.6 || ratio > 1.6 {
				t.Errorf("variance ÷ mean = %.2f", ratio)
			}
		})
	}
	if offered[0] != offered[1] || offered[0] == offered[2] {
		t.Errorf("offered %v: want the first two alike", offered)
	}
	if math.Abs(float64(offered[0])-10_000) > 400 {
		t.Errorf("offered %d, want about 10000", offered[0])
	}
}

func TestAClientLeavesWhenItsPatienceEnds(t *testing.T) {
	for _, deadline := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var said, left, answered atomic.Int64
			r := Run(Load{Rate: Constant(100), For: time.Second, Patience: 50 * time.Millisecond, Deadline: deadline, Work: Exactly(0)},
				func(ctx context.Context, _ Request) Outcome {
					began := time.Now()
					if _, ok := ctx.Deadline(); ok {
						said.Add(1)
					}
					<-ctx.Done()
					if time.Since(began) == 50*time.Millisecond {
						left.Add(1)
					}
					if answered.Add(1)%2 == 0 {
						time.Sleep(time.Millisecond)
					}
					return Served
				})
			c := r.Between(0, 2*time.Second, nil)
			if left.Load() != int64(c.Offered) || (said.Load() > 0) != deadline {
				t.Errorf("deadline %v: of %d, %d left in time, %d said when", deadline, c.Offered, left.Load(), said.Load())
			}
			if c.Late != c.Offered/2 || c.Good+c.Late != c.Offered {
				t.Errorf("counted %+v", c)
			}
		})
	}
}

func TestARateMayVary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Run(Load{Rate: func(at time.Duration) float64 {
			if at < time.Second {
				return 200
			}
			return 2000
		}, For: 2 * time.Second, Work: Exactly(0)}, func(context.Context, Request) Outcome { return Refused })
		low, high := r.Between(0, time.Second, nil), r.Between(time.Second, 2*time.Second, nil)
		if low.Offered < 150 || low.Offered > 250 || high.Offered < 1800 || high.Offered > 2200 || high.Refused != high.Offered {
			t.Errorf("%+v, then %+v", low, high)
		}
	})
}

func TestSlotsServeInOrderAndQueueTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSlots(2)
		began := time.Now()
		ends := make(chan time.Duration, 8)
		for range 4 {
			go func() { s.Do(10 * time.Millisecond); ends <- time.Since(began) }()
			synctest.Wait()
		}
		for _, want := range []time.Duration{10, 10, 20, 20} {
			if got := <-ends; got != want*time.Millisecond {
				t.Errorf("ended after %v, want %dms", got, want)
			}
		}
		s.Set(1)
		s.Slow(2)
		began = time.Now()
		for range 2 {
			go func() { s.Do(10 * time.Millisecond); ends <- time.Since(began) }()
		}
		for _, want := range []time.Duration{20, 40} {
			if got := <-ends; got != want*time.Millisecond {
				t.Errorf("one slow slot: ended after %v, want %dms", got, want)
			}
		}
	})
}

func TestCPUIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewCPU(2)
		began := time.Now()
		ends := make(chan time.Duration, 8)
		for _, work := range []time.Duration{10, 10, 10, 30} {
			go func() { c.Do(work * time.Millisecond); ends <- time.Since(began) }()
		}
		// Four share two cores: each gets half. Three end at 20 ms; the fourth has 20 ms of work left, alone on a core.
		for _, want := range []time.Duration{20, 20, 20, 40} {
			if got := <-ends; (got - want*time.Millisecond).Abs() > time.Microsecond {
				t.Errorf("ended after %v, want %dms", got, want)
			}
		}
		began = time.Now()
		go func() { c.Do(10 * time.Millisecond); ends <- time.Since(began) }()
		time.Sleep(5 * time.Millisecond)
		c.Set(0.5)
		if got := <-ends; (got - 15*time.Millisecond).Abs() > time.Microsecond {
			t.Errorf("after a change of cores: ended after %v, want 15ms", got)
		}
	})
}

func TestQuantile(t *testing.T) {
	r := &Result{bins: map[bin]*Counts{}}
	if r.Quantile(0.99, 0, time.Second) != 0 {
		t.Error("of nothing: want 0")
	}
	for i := range 101 {
		r.answer(0, time.Duration(i)*time.Millisecond, 0, Served, true)
	}
	if got := r.Quantile(0.99, 0, time.Second); got != 99*time.Millisecond {
		t.Errorf("p99 = %v", got)
	}
}
