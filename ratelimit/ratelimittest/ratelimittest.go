// Package ratelimittest is the conformance suite for implementations of ratelimit.Store.
//
//	func TestStore(t *testing.T) {
//		ratelimittest.Run(t, func(t *testing.T) ratelimit.Store { return mystore.New(client) })
//	}
//
// It checks what package ratelimit builds on: exact counts, atomic joined limits, refusals that cost nothing, permits that come
// back when promised and no sooner, and quotas and permits in flight if the store Supports them. It takes about six seconds on a
// store that answers in a millisecond. It assumes that the store's clock runs as fast as this process's, not that they agree, but
// for a few hours; a slow machine cannot make a sound store fail.
package ratelimittest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/ratelimit"
)

// Run checks the stores that open returns: one for each property, new or not, since every property uses names of its own.
func Run(t *testing.T, open func(t *testing.T) ratelimit.Store) {
	t.Helper()
	for _, p := range propertiesOf(open(t)) {
		t.Run(p.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := p.check(ctx, open(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

type property struct {
	name  string
	check func(context.Context, ratelimit.Store) error
}

// propertiesOf are those of what a store supports.
func propertiesOf(s ratelimit.Store) []property {
	all := slices.Clone(rates)
	if s, ok := s.(interface{ Supports(ratelimit.Rule) bool }); ok {
		if s.Supports(ratelimit.Calendar(1, ratelimit.Day, nil).Rules()[0]) {
			all = append(all, quotas...)
		}
		if s.Supports(ratelimit.InFlight(1, time.Minute).Rules()[0]) {
			all = append(all, inFlight...)
		}
	}
	return all
}

var rates = []property{
	{"ABurstIsExact", burstIsExact},
	{"ACostIsTakenWholeOrNotAtAll", costIsWhole},
	{"RefusalsCostNothing", refusalsCostNothing},
	{"PermitsComeBackWhenPromised", permitsComeBack},
	{"NeverMoreThanBurstAndRate", neverMore},
	{"IdleTimeIsNotSavedUp", idleIsNotSaved},
	{"JoinedLimitsAreOneDecision", joinedIsOne},
	{"KeysAndNamesAreApart", keysAreApart},
	{"AnyKeyWillDo", anyKey},
	{"ASmallerLimitCutsWhatIsStored", smallerCuts},
	{"AnotherRateKeepsWhatIsUsed", rateKeeps},
	{"ConcurrentTakesAreAtomic", concurrentIsAtomic},
	{"AsManyAsFitAreGranted", asManyAsFit},
	{"ReturnedPermitsAreThereAgain", returnedPermits},
	{"DrainedPermitsAreNotReturned", drainedIsNotReturned},
}

// slow is a limit of which nothing comes back during a test.
func slow(burst int) ratelimit.Limit { return ratelimit.Per(1, time.Hour).Burst(burst) }

// fresh is a name that no test used before, also on a server that outlives this process.
func fresh() string { return "t-" + rand.Text() }

type client struct {
	ctx   context.Context
	store ratelimit.Store
	ask   ratelimit.Ask
}

func newClient(ctx context.Context, s ratelimit.Store, l ratelimit.Limit) client {
	return client{ctx, s, ratelimit.Ask{Name: fresh(), Key: "k", Rules: l.Rules()}}
}

func (c client) take(cost int) (ratelimit.Decision, error) {
	c.ask.Cost = cost
	return c.store.Take(c.ctx, c.ask)
}

func (c client) with(l ratelimit.Limit) client {
	c.ask.Rules = l.Rules()
	return c
}

// expect takes cost and compares all that does not depend on time.
func (c client) expect(cost int, want ratelimit.Decision) error {
	d, err := c.take(cost)
	if err != nil {
		return err
	}
	if want.Allowed && d.Granted != cost || !want.Allowed && d.Granted != 0 {
		return fmt.Errorf("cost %d: got %+v: Granted must be the cost, or 0", cost, d)
	}
	got := ratelimit.Decision{Allowed: d.Allowed, Rule: d.Rule, Limit: d.Limit, Remaining: d.Remaining}
	if got != want {
		return fmt.Errorf("cost %d: got %+v, want allowed %v, rule %d, limit %d, remaining %d", cost, d, want.Allowed, want.Rule, want.Limit, want.Remaining)
	}
	if d.Allowed != (d.RetryAfter == 0) {
		return fmt.Errorf("cost %d: got %+v: RetryAfter must be 0 when allowed and more when not", cost, d)
	}
	if d.RetryAfter > d.ResetAfter || d.ResetAfter < 0 {
		return fmt.Errorf("cost %d: got %+v: ResetAfter must be at least RetryAfter", cost, d)
	}
	return nil
}

func granted(limit, remaining int) ratelimit.Decision {
	return ratelimit.Decision{Allowed: true, Limit: limit, Remaining: remaining}
}

func refused(limit, remaining int) ratelimit.Decision {
	return ratelimit.Decision{Limit: limit, Remaining: remaining}
}

func burstIsExact(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, slow(10))
	begin := time.Now()
	for left := 9; left >= 0; left-- {
		if err := c.expect(1, granted(10, left)); err != nil {
			return err
		}
	}
	for range 3 {
		if err := c.expect(1, refused(10, 0)); err != nil {
			return err
		}
	}
	d, err := c.take(1)
	if err != nil {
		return err
	}
	passed := slack(time.Since(begin))
	if d.RetryAfter > time.Hour || d.RetryAfter < time.Hour-passed || d.ResetAfter > 10*time.Hour || d.ResetAfter < 10*time.Hour-passed {
		return fmt.Errorf("ten of ten an hour used in the last %v: got %+v, want RetryAfter 1h and ResetAfter 10h, less that time", passed, d)
	}
	return nil
}

// slack is the most that the store's clock may have moved while this process's moved by d: the clocks of two machines may
// differ by 500 parts in a million, and one that counts microseconds by one of those.
func slack(d time.Duration) time.Duration { return d + d/2000 + 2*time.Microsecond }

func costIsWhole(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, slow(10))
	return errors.Join(
		c.expect(7, granted(10, 3)),
		c.expect(4, refused(10, 3)),
		c.expect(10, refused(10, 3)),
		c.expect(3, granted(10, 0)),
		c.expect(1, refused(10, 0)),
	)
}

func refusalsCostNothing(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, slow(5))
	if _, err := c.take(5); err != nil {
		return err
	}
	first, err := c.take(3)
	if err != nil {
		return err
	}
	for range 100 {
		d, err := c.take(3)
		if err != nil {
			return err
		}
		if d.Allowed || d.RetryAfter > first.RetryAfter {
			return fmt.Errorf("refused again and again: RetryAfter went from %v to %v", first.RetryAfter, d.RetryAfter)
		}
	}
	return nil
}

func permitsComeBack(ctx context.Context, s ratelimit.Store) error {
	// One in 30 ms; a rate that no whole number of microseconds expresses.
	c := newClient(ctx, s, ratelimit.Per(7, 210*time.Millisecond+time.Microsecond).Burst(3))
	for i := range 4 {
		cost := 1 + i%2
		var begin time.Time
		var d ratelimit.Decision
		var err error
		for {
			begin = time.Now()
			if d, err = c.take(cost); err != nil {
				return err
			}
			if !d.Allowed {
				break
			}
		}
		if most := time.Duration(cost) * 31 * time.Millisecond; d.RetryAfter > most {
			return fmt.Errorf("cost %d: got %+v: want RetryAfter at most %v", cost, d, most)
		}
		early, err := c.take(cost)
		if err != nil {
			return err
		}
		if early.Allowed {
			if since := slack(time.Since(begin)); since < d.RetryAfter {
				return fmt.Errorf("cost %d granted %v after it was refused for %v", cost, since, d.RetryAfter)
			}
			continue // this process was stalled
		}
		if err := sleep(ctx, slack(d.RetryAfter)); err != nil {
			return err
		}
		late, err := c.take(cost)
		if err != nil {
			return err
		}
		if !late.Allowed {
			return fmt.Errorf("cost %d refused after its RetryAfter of %v: got %+v", cost, d.RetryAfter, late)
		}
	}
	return nil
}

// counted hammers c from several goroutines for d, longer if a stalled machine has not got least until then, and returns what
// was granted and how long it took at most.
func counted(c client, d time.Duration, least int64, clients int) (int64, time.Duration, error) {
	var granted atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	begin := time.Now()
	for range clients {
		wg.Go(func() {
			for time.Since(begin) < d || granted.Load() < least && time.Since(begin) < 30*time.Second {
				d, err := c.take(1)
				if err != nil {
					failed.Store(&err)
					return
				}
				if d.Allowed {
					granted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	if err := failed.Load(); err != nil {
		return 0, 0, *err
	}
	return granted.Load(), took, nil
}

// bound is burst + ⌊rate·t⌋.
func bound(l ratelimit.Limit, t time.Duration) int64 {
	r := l.Rules()[0]
	t = slack(t)
	n := new(big.Int).Mul(big.NewInt(int64(r.N)), big.NewInt(int64(t)))
	return int64(r.Burst) + n.Div(n, big.NewInt(int64(r.Per))).Int64()
}

func neverMore(ctx context.Context, s ratelimit.Store) error {
	for _, l := range []ratelimit.Limit{ratelimit.PerSecond(300).Burst(20), ratelimit.Per(77, 130*time.Millisecond).Burst(3)} {
		least := int64(l.Rules()[0].Burst)
		n, took, err := counted(newClient(ctx, s, l), 300*time.Millisecond, least, 4)
		if err != nil {
			return err
		}
		if most := bound(l, took); n > most {
			return fmt.Errorf("%v granted %d in %v: want at most %d", l, n, took, most)
		}
		if n < least {
			return fmt.Errorf("%v granted %d in %v: want at least the burst, %d", l, n, took, least)
		}
	}
	return nil
}

func idleIsNotSaved(ctx context.Context, s ratelimit.Store) error {
	l := ratelimit.PerSecond(1000).Burst(4)
	c := newClient(ctx, s, l)
	if _, err := c.take(4); err != nil {
		return err
	}
	if err := sleep(ctx, 150*time.Millisecond); err != nil {
		return err
	}
	begin, n := time.Now(), int64(0)
	for range 100 {
		d, err := c.take(1)
		if err != nil {
			return err
		}
		if d.Allowed {
			n++
		}
	}
	if took := time.Since(begin); n > bound(l, took) {
		return fmt.Errorf("%v granted %d in %v after 150 ms of silence: want at most %d", l, n, took, bound(l, took))
	} else if n < 4 {
		return fmt.Errorf("%v granted %d after 150 ms of silence: want at least its burst", l, n)
	}
	return nil
}

func joinedIsOne(ctx context.Context, s ratelimit.Store) error {
	for _, second := range []bool{true, false} { // which of the two is the tight one
		wide, tight := slow(100), slow(2)
		limit, rule := wide.And(tight), 1
		if !second {
			limit, rule = tight.And(wide), 0
		}
		c := newClient(ctx, s, limit)
		binds := func(d ratelimit.Decision) ratelimit.Decision { d.Rule = rule; return d }
		if err := errors.Join(
			c.expect(1, binds(granted(2, 1))),
			c.expect(1, binds(granted(2, 0))),
			c.expect(2, binds(refused(2, 0))),
			c.expect(1, binds(refused(2, 0))),
		); err != nil {
			return fmt.Errorf("%v: %w", limit, err)
		}
		// With a roomy second limit in place of the tight one what the first has used shows: 2 and the one taken here.
		if second {
			if err := c.with(wide).expect(1, granted(100, 97)); err != nil {
				return fmt.Errorf("%v: the refusals were charged to the first limit: %w", limit, err)
			}
		} else if err := c.with(slow(200).And(wide)).expect(1, ratelimit.Decision{Allowed: true, Rule: 1, Limit: 100, Remaining: 97}); err != nil {
			return fmt.Errorf("%v: the refusals were charged to the second limit: %w", limit, err)
		}
	}
	return nil
}

func keysAreApart(ctx context.Context, s ratelimit.Store) error {
	a := newClient(ctx, s, slow(3))
	b, c := a, a
	b.ask.Key = "l"
	c.ask.Name = fresh()
	return errors.Join(a.expect(3, granted(3, 0)), b.expect(1, granted(3, 2)), c.expect(2, granted(3, 1)), a.expect(1, refused(3, 0)))
}

func anyKey(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, slow(2))
	long := strings.Repeat("x", 100_000)
	for _, key := range []string{
		"a", "A", "a ", "a\x00", "a\x00b", "\xff\xfe", "{a}", "{b}", "a}b{", "a:b", "a\r\nb", "*", "ä", "日本", "2001:db8::/64", long, long + "y",
	} {
		c.ask.Key = key
		if err := c.expect(1, granted(2, 1)); err != nil {
			return fmt.Errorf("key %.20q of %d bytes: %w", key, len(key), err)
		}
	}
	c.ask.Key = long
	return errors.Join(c.expect(1, granted(2, 0)), c.expect(1, refused(2, 0)))
}

func smallerCuts(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, slow(100))
	if err := c.expect(100, granted(100, 0)); err != nil {
		return err
	}
	c = c.with(slow(10))
	if err := c.expect(1, refused(10, 0)); err != nil {
		return err
	}
	d, err := c.take(1)
	if err == nil && (d.RetryAfter > time.Hour || d.ResetAfter > 10*time.Hour) {
		err = fmt.Errorf("100 used, then the burst was cut to 10: got %+v, want RetryAfter at most 1h and ResetAfter at most 10h", d)
	}
	return err
}

func rateKeeps(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, slow(100))
	if err := c.expect(40, granted(100, 60)); err != nil {
		return err
	}
	for _, step := range []struct {
		limit     ratelimit.Limit
		cost      int
		remaining int
	}{
		{ratelimit.Per(7, 1000*time.Hour).Burst(100), 10, 50},
		{ratelimit.Per(3, 1000*time.Hour).Burst(200), 1, 149},
	} {
		d, err := c.with(step.limit).take(step.cost)
		if err != nil {
			return err
		}
		// One less where a part of a permit was rounded up.
		if !d.Allowed || d.Remaining != step.remaining && d.Remaining != step.remaining-1 {
			return fmt.Errorf("the limit changed to %v, cost %d: got %+v, want %d remaining or one less", step.limit, step.cost, d, step.remaining)
		}
	}
	return nil
}

func concurrentIsAtomic(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, slow(100).And(slow(70)))
	var wg sync.WaitGroup
	var n atomic.Int64
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			for range 25 {
				d, err := c.take(1)
				if err != nil {
					errs[i] = err
					return
				}
				if d.Allowed {
					n.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if n.Load() != 70 {
		return fmt.Errorf("8 clients asked 200 times for 70 permits and were granted %d", n.Load())
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
