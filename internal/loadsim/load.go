// Package loadsim offers load to real code in virtual time: an open loop of clients with patience, and services with a known
// capacity to put behind a guard.
//
// Everything waits through package time and channels, so a test runs it inside a testing/synctest bubble: ten seconds at ten
// times the capacity then take as long as their requests cost the processor, and what is counted depends on the seed alone.
// Goroutines that become ready at the same virtual instant run in no fixed order, so counts may differ by a few between runs;
// assert with a margin. Outside a bubble the same code takes real time.
//
// It says nothing about what a decision costs or about pauses of the garbage collector: no virtual time passes while code
// runs.
package loadsim

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Load is an open loop: requests arrive at a rate that does not depend on how earlier ones fare (a Poisson process).
type Load struct {
	Rate     func(t time.Duration) float64 // arrivals a second at t since the beginning
	For      time.Duration                 // how long requests arrive; Run returns when the last has its answer
	Patience time.Duration                 // a client that waits longer leaves, and what comes later is not good
	Deadline bool                          // the context says so beforehand; else it is cancelled when the client leaves
	Work     func(*rand.Rand) time.Duration
	Class    func(*rand.Rand) int // the class of a request, a tenant or a priority; nil means 0
	Seed     uint64
}

// Request is what a client asks.
type Request struct {
	Work  time.Duration // for a service's Do
	Class int
}

// Outcome is what a client got.
type Outcome int

// Outcomes.
const (
	Served Outcome = iota
	Refused
)

// Run offers the load to serve, one goroutine a request, and returns what was counted.
func Run(load Load, serve func(context.Context, Request) Outcome) *Result {
	arrivals := rand.New(rand.NewPCG(load.Seed, 1))
	details := rand.New(rand.NewPCG(load.Seed, 2)) // apart, so that every guard in a comparison meets the same arrivals
	peak := 0.0
	for t := time.Duration(0); t < load.For; t += 50 * time.Millisecond {
		peak = max(peak, load.Rate(t))
	}
	result := &Result{bins: make(map[bin]*Counts)}
	var wg sync.WaitGroup
	began := time.Now()
	for at := time.Duration(0); ; {
		at += time.Duration(arrivals.ExpFloat64() / peak * float64(time.Second))
		if at >= load.For {
			break
		}
		if arrivals.Float64() >= load.Rate(at)/peak {
			continue // thinning makes a varying rate of the constant one
		}
		r := Request{Work: load.Work(details)}
		if load.Class != nil {
			r.Class = load.Class(details)
		}
		time.Sleep(at - time.Since(began))
		result.offer(at, r.Class)
		wg.Go(func() {
			ctx, leave := load.client()
			defer leave()
			outcome := serve(ctx, r)
			now := time.Since(began)
			result.answer(at, now, r.Class, outcome, now-at <= load.Patience || load.Patience == 0)
		})
	}
	wg.Wait()
	return result
}

func (load Load) client() (context.Context, context.CancelFunc) {
	switch {
	case load.Patience == 0:
		return context.Background(), func() {}
	case load.Deadline:
		return context.WithTimeout(context.Background(), load.Patience)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t := time.AfterFunc(load.Patience, cancel)
	return ctx, func() { t.Stop(); cancel() }
}

// Constant is a Rate that does not change.
func Constant(rate float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return rate }
}

// Exactly is work that always takes d.
func Exactly(d time.Duration) func(*rand.Rand) time.Duration {
	return func(*rand.Rand) time.Duration { return d }
}

// Exponential is work of exponentially distributed length.
func Exponential(mean time.Duration) func(*rand.Rand) time.Duration {
	return func(r *rand.Rand) time.Duration { return time.Duration(r.ExpFloat64() * float64(mean)) }
}
