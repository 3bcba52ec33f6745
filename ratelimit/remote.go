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
)

// remote asks a store that may be slow or gone: it remembers refusals, keeps to the time budget and falls back. It is for the store
// to fail at once while it is known to be gone.
type remote struct {
	l        *Limiter
	store    Store
	fallback *Memory // for OnError Local
	share    []Rule  // the limiter's own limit, for one process alone

	seed    maphash.Seed
	start   time.Time
	refused [rememberSlots]atomic.Pointer[refusal]

	leases *leases // nil without Options.Lease

	down     atomic.Bool // the last answer was a failure
	warned   atomic.Bool // and was logged
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
	if l.opts.Lease > 0 {
		r.leases = newLeases(r, l.opts.Lease)
	}
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
	if r.leases != nil && onlyRates(ask.Rules) {
		return r.leases.take(ctx, hash, ask)
	}
	d, err := r.takeStore(ctx, hash, ask)
	if err != nil && ctx.Err() == nil {
		return r.without(ask, err)
	}
	return d, ask.Rules, err
}

// takeStore is the store's decision, or one that it would make. The error is the context's if that has ended.
func (r *remote) takeStore(ctx context.Context, hash uint64, ask Ask) (Decision, error) {
	slot := &r.refused[hash%rememberSlots]
	if f := slot.Load(); f != nil && f.hash == hash && f.cost <= ask.Cost {
		passed := time.Since(r.start) - f.at
		if passed < min(f.d.RetryAfter, rememberMost) && slices.Equal(f.rules, ask.Rules) {
			r.l.counts.remembered.Add(1)
			d := f.d
			d.RetryAfter -= passed
			d.ResetAfter = max(d.ResetAfter-passed, d.RetryAfter)
			return d, nil
		}
	}
	sent := time.Since(r.start)
	d, err := r.ask(ctx, ask)
	if err != nil {
		if ctx.Err() != nil {
			return Decision{}, ctx.Err() // the caller went; it says nothing of the store
		}
		r.failed(err)
		return Decision{}, err
	}
	if r.down.Load() && r.down.Swap(false) && r.warned.Swap(false) {
		r.l.logger.Info("ratelimit: the store answers again", slog.String("limiter", r.l.name))
	}
	r.checked.Do(func() { r.check(ctx) })
	if !d.Allowed && ask.Most > ask.Cost {
		d = r.leases.holdOff(d, ask)
	}
	if !d.Allowed && d.RetryAfter > 0 && !holds(ask.Rules) {
		slot.Store(&refusal{hash: hash, cost: ask.Cost, rules: ask.Rules, d: d, at: sent})
	}
	return d, nil
}

// giveBack returns permits to whoever granted them.
func (r *remote) giveBack(ctx context.Context, ask Ask, from source) error {
	if from == fromFallback {
		if r.fallback != nil {
			ask.Rules = r.shareFor(ask.Rules)
			r.fallback.giveBack(ask)
		}
		return nil
	}
	hash := maphash.String(r.seed, ask.Key)
	if from == fromLease {
		r.leases.giveBack(hash, ask)
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err := r.protected(ctx, func(ctx context.Context) error { return r.store.Return(ctx, ask) })
	if err == nil {
		// A refusal from before says nothing now.
		if slot := &r.refused[hash%rememberSlots]; slot.Load() != nil {
			slot.Store(nil)
		}
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.failed(err)
	return fmt.Errorf("ratelimit: %s: %w", r.l.name, err)
}

func (r *remote) ask(ctx context.Context, ask Ask) (d Decision, err error) {
	err = r.protected(ctx, func(ctx context.Context) error {
		d, err = r.store.Take(ctx, ask)
		return err
	})
	return d, err
}

// protected keeps the store to the time budget and turns its panics into errors.
func (r *remote) protected(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("store panicked: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, r.l.opts.Timeout)
	defer cancel()
	return f(ctx)
}

// without decides while the store does not.
func (r *remote) without(ask Ask, err error) (Decision, []Rule, error) {
	if r.fallback == nil {
		r.l.counts.denied.Add(1)
		d := Decision{Limit: ask.Rules[0].Burst, RetryAfter: deniedRetry, ResetAfter: deniedRetry}
		return d, ask.Rules, fmt.Errorf("ratelimit: %s: denied, the store failed: %w", r.l.name, err)
	}
	r.l.counts.local.Add(1)
	rules := r.shareFor(ask.Rules)
	ask.Rules, ask.Cost, ask.Most = rules, min(ask.Cost, maxCost(rules)), 0
	d := r.fallback.take(ask)
	d.from = fromFallback
	return d, rules, nil
}

func (r *remote) shareFor(rules []Rule) []Rule {
	if len(rules) != len(r.l.limit.rules) || &rules[0] != &r.l.limit.rules[0] {
		return shareOf(rules, r.l.opts.Processes)
	}
	return r.share
}

func (r *remote) failed(err error) {
	r.l.counts.failures.Add(1)
	r.down.Store(true)
	now := int64(time.Since(r.start))
	if last := r.lastWarn.Load(); (last == 0 || now-last > int64(warnEvery)) && r.lastWarn.CompareAndSwap(last, max(now, 1)) {
		r.warned.Store(true)
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
