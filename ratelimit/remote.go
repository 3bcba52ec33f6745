package ratelimit

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	rememberMost  = time.Second
	rememberSlots = 8192
	deniedRetry   = time.Second
	warnEvery     = 10 * time.Second
	pauseFirst    = 50 * time.Millisecond // after the second failure in a row
	pauseMost     = 500 * time.Millisecond
)

// remote asks a store that may be slow or gone: it remembers refusals, keeps to the time budget and falls back.
type remote struct {
	l        *Limiter
	store    Store
	fallback *Memory // for OnError Local
	share    []Rule  // the limiter's own limit, for one process alone

	seed    maphash.Seed
	start   time.Time
	refused [rememberSlots]atomic.Pointer[refusal]

	streak   atomic.Int64 // failures since the last answer; those that were under way together are one
	failedAt atomic.Int64 // when the last of them was counted, nanoseconds since start
	retryAt  atomic.Int64 // while there are any: nobody tries the store before, nanoseconds since start
	probing  atomic.Bool  // and one at a time
	lastWarn atomic.Int64
	checked  sync.Once
}

// refusal is one that a store gave. Until its time has come the store would say the same of any request that costs as much, since
// a level only drains; so it need not be asked.
type refusal struct {
	hash  uint64
	cost  int
	rules []Rule
	d     Decision
	at    time.Duration // since start: when the store was asked, so before it decided
}

func newRemote(l *Limiter) *remote {
	r := &remote{l: l, store: l.opts.Store, seed: maphash.MakeSeed(), start: time.Now()}
	if l.opts.OnError == Local {
		r.fallback = NewMemory(0)
		r.share = shareOf(l.limit.rules, l.opts.Processes)
	}
	return r
}

func shareOf(rules []Rule, processes int) []Rule {
	if processes == 1 {
		return rules
	}
	out := make([]Rule, len(rules))
	for i, r := range rules {
		out[i] = r.share(processes)
	}
	return out
}

func (r *remote) take(ctx context.Context, ask Ask) (Decision, []Rule, error) {
	if err := ctx.Err(); err != nil {
		return Decision{}, ask.Rules, err
	}
	hash := maphash.String(r.seed, ask.Key)
	slot := &r.refused[hash%rememberSlots]
	if f := slot.Load(); f != nil && f.hash == hash && f.cost <= ask.Cost {
		passed := time.Since(r.start) - f.at
		if passed < min(f.d.RetryAfter, rememberMost) && slices.Equal(f.rules, ask.Rules) {
			r.l.counts.remembered.Add(1)
			d := f.d
			d.RetryAfter -= passed
			d.ResetAfter = max(d.ResetAfter-passed, d.RetryAfter)
			return d, ask.Rules, nil
		}
	}
	if r.down() {
		if int64(time.Since(r.start)) < r.retryAt.Load() || !r.probing.CompareAndSwap(false, true) {
			return r.without(ask, nil)
		}
		defer r.probing.Store(false)
	}

	sent := time.Since(r.start)
	d, err := r.ask(ctx, ask)
	if err != nil {
		if ctx.Err() != nil {
			return Decision{}, ask.Rules, ctx.Err() // the caller went; it says nothing of the store
		}
		r.failed(sent, err)
		return r.without(ask, err)
	}
	if r.down() && r.streak.Swap(0) > 0 {
		r.l.logger.Info("ratelimit: the store answers again", slog.String("limiter", r.l.name))
	}
	r.checked.Do(func() { r.check(ctx) })
	if !d.Allowed && d.RetryAfter > 0 {
		slot.Store(&refusal{hash: hash, cost: ask.Cost, rules: ask.Rules, d: d, at: sent})
	}
	return d, ask.Rules, nil
}

// ask keeps the store to the time budget and turns its panics into errors.
func (r *remote) ask(ctx context.Context, ask Ask) (d Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			d, err = Decision{}, fmt.Errorf("store panicked: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, r.l.opts.Timeout)
	defer cancel()
	return r.store.Take(ctx, ask)
}

func (r *remote) down() bool { return r.streak.Load() > 0 }

// without decides while the store does not.
func (r *remote) without(ask Ask, err error) (Decision, []Rule, error) {
	if r.fallback == nil {
		r.l.counts.denied.Add(1)
		d := Decision{Limit: ask.Rules[0].Burst, RetryAfter: deniedRetry, ResetAfter: deniedRetry}
		if err == nil {
			err = errStoreDown
		}
		return d, ask.Rules, fmt.Errorf("ratelimit: %s: denied, the store failed: %w", r.l.name, err)
	}
	r.l.counts.local.Add(1)
	rules := r.share
	if len(ask.Rules) != len(r.l.limit.rules) || &ask.Rules[0] != &r.l.limit.rules[0] {
		rules = shareOf(ask.Rules, r.l.opts.Processes)
	}
	ask.Rules, ask.Cost = rules, min(ask.Cost, maxCost(rules))
	return r.fallback.take(ask), rules, nil
}

func (r *remote) failed(sent time.Duration, err error) {
	r.l.counts.failures.Add(1)
	now := int64(time.Since(r.start))
	// One failure may be bad luck, so the next request tries again at once, also when many met it together. A store that goes on
	// failing is left alone but for a try each half second.
	if last := r.failedAt.Load(); int64(sent) >= last && r.failedAt.CompareAndSwap(last, now) {
		if n := r.streak.Add(1); n > 1 {
			r.retryAt.Store(now + int64(min(pauseFirst<<min(n-2, 8), pauseMost)))
		}
	}
	if last := r.lastWarn.Load(); (last == 0 || now-last > int64(warnEvery)) && r.lastWarn.CompareAndSwap(last, max(now, 1)) {
		r.l.logger.Warn("ratelimit: the store failed", slog.String("limiter", r.l.name),
			slog.String("on_error", r.l.opts.OnError.String()), slog.Any("error", err))
	}
}

// check logs once what the store knows to be wrong with itself.
func (r *remote) check(ctx context.Context) {
	w, ok := r.store.(interface{ Warning(context.Context) string })
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.l.opts.Timeout)
	defer cancel()
	if text := w.Warning(ctx); text != "" {
		r.l.logger.Warn("ratelimit: "+text, slog.String("limiter", r.l.name))
	}
}
