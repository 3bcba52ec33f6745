package ratelimittest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/fairlead/fairlead/ratelimit"
)

// Properties of what a store may support besides rates.
var quotas = []property{
	{"AQuotaIsForItsUnit", quotaIsForItsUnit},
	{"AQuotaIsNewInTheNextUnit", quotaIsNew},
	{"AQuotaBesideARate", quotaBesideRate},
}

var inFlight = []property{
	{"PermitsInFlightComeBack", flightsComeBack},
	{"PermitsInFlightTimeOut", flightsTimeOut},
	{"AReturnFreesNobodyElses", returnFreesOwn},
	{"AskedTwiceHoldsOnce", askedTwice},
	{"InFlightBesideARate", flightBesideRate},
}

func asManyAsFit(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, slow(100).And(slow(10)))
	for _, step := range []struct{ cost, most, want int }{{1, 3, 3}, {2, 20, 7}, {1, 5, 0}} {
		c.ask.Cost, c.ask.Most = step.cost, step.most
		d, err := s.Take(ctx, c.ask)
		if err != nil {
			return err
		}
		if d.Granted != step.want || d.Allowed != (step.want > 0) {
			return fmt.Errorf("%d, or as many as fit up to %d: got %+v, want %d", step.cost, step.most, d, step.want)
		}
	}
	// All rules were charged the same.
	c = c.with(slow(100))
	c.ask.Most = 0
	return c.expect(1, granted(100, 89))
}

// undo returns what d granted.
func (c client) undo(d ratelimit.Decision) error {
	c.ask.Cost, c.ask.At = d.Granted, d.At
	return c.store.Return(c.ctx, c.ask)
}

func returnedPermits(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, slow(10).And(slow(20)))
	if err := c.undo(ratelimit.Decision{Granted: 1}); err != nil {
		return fmt.Errorf("a return to a key that nobody took from: %w", err)
	}
	d, err := c.take(7)
	if err != nil {
		return err
	}
	return errors.Join(
		c.expect(4, refused(10, 3)),
		c.undo(d),
		c.expect(10, granted(10, 0)),
		c.with(slow(10).And(slow(12))).expect(1, refused(10, 0)),
	)
}

// drainedIsNotReturned: what has drained came back by itself.
func drainedIsNotReturned(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, ratelimit.Per(4, 400*time.Millisecond))
	first, err := c.take(4)
	if err != nil {
		return err
	}
	if err := sleep(ctx, slack(first.ResetAfter)); err != nil {
		return err
	}
	begin := time.Now()
	if d, err := c.take(4); err != nil || !d.Allowed {
		return fmt.Errorf("after its time: got %+v, %v", d, err)
	}
	if err := c.undo(first); err != nil {
		return err
	}
	d, err := c.take(4)
	if err == nil && d.Allowed && slack(time.Since(begin)) < 400*time.Millisecond {
		err = fmt.Errorf("4 permits a second time within %v, because 4 from before, that had drained, were given back", time.Since(begin))
	}
	return err
}

// noon is a zone where it is about midday, so that no day ends during a test.
func noon() *time.Location {
	now := time.Now().UTC()
	return time.FixedZone("noon", (12-now.Hour())*3600)
}

func quotaIsForItsUnit(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, ratelimit.Calendar(5, ratelimit.Day, noon()))
	if err := errors.Join(c.expect(3, granted(5, 2)), c.expect(3, refused(5, 2)), c.expect(2, granted(5, 0)), c.expect(1, refused(5, 0))); err != nil {
		return err
	}
	d, err := c.take(1)
	if err != nil {
		return err
	}
	if d.RetryAfter != d.ResetAfter || d.RetryAfter < 9*time.Hour || d.RetryAfter > 15*time.Hour {
		return fmt.Errorf("a day's quota used at about noon: got %+v, want RetryAfter and ResetAfter until midnight", d)
	}
	used := ratelimit.Decision{Granted: 2, At: d.At}
	return errors.Join(
		c.undo(used),
		c.expect(2, granted(5, 0)),
		// Taken the day before.
		c.undo(ratelimit.Decision{Granted: 2, At: d.At - (24 * time.Hour).Microseconds()}),
		c.expect(1, refused(5, 0)),
		c.with(ratelimit.Calendar(7, ratelimit.Day, noon())).expect(2, granted(7, 0)),
	)
}

func quotaIsNew(ctx context.Context, s ratelimit.Store) error {
	// A zone where, by the store's clock, midnight is near.
	d, err := newClient(ctx, s, ratelimit.Calendar(1, ratelimit.Day, time.UTC)).take(1)
	if err != nil {
		return err
	}
	ahead := int(d.ResetAfter / time.Second) // until midnight there
	zone := time.FixedZone("midnight", ahead-2)
	// Beside a rate, whose state outlives the day.
	c := newClient(ctx, s, ratelimit.Calendar(2, ratelimit.Day, zone).And(slow(100)))
	begin := time.Now()
	if d, err = c.take(2); err != nil {
		return err
	}
	if d.ResetAfter > 3*time.Second {
		if time.Since(begin) < time.Second && d.ResetAfter < 23*time.Hour {
			return fmt.Errorf("2 s before midnight: got %+v", d)
		}
		return nil // this process was stalled over midnight
	}
	early, err := c.take(1)
	if err != nil {
		return err
	}
	if early.Allowed && slack(time.Since(begin)) < d.ResetAfter {
		return fmt.Errorf("a quota used up was granted from before its unit ended: got %+v", early)
	}
	if early.Allowed {
		return nil
	}
	if err := sleep(ctx, slack(early.RetryAfter)); err != nil {
		return err
	}
	if d, err = c.take(2); err == nil && !d.Allowed {
		err = fmt.Errorf("refused after its RetryAfter of %v, in a new unit: got %+v", early.RetryAfter, d)
	}
	return err
}

func quotaBesideRate(ctx context.Context, s ratelimit.Store) error {
	quota := ratelimit.Calendar(5, ratelimit.Day, noon())
	c := newClient(ctx, s, slow(3).And(quota))
	second := func(d ratelimit.Decision) ratelimit.Decision { d.Rule = 1; return d }
	return errors.Join(
		c.expect(3, granted(3, 0)),
		c.expect(1, refused(3, 0)),
		c.with(slow(100).And(quota)).expect(2, second(granted(5, 0))),
		c.with(slow(100).And(quota)).expect(1, second(refused(5, 0))),
	)
}

// hold takes cost permits in flight under an id of their own.
func (c client) hold(cost int) (client, ratelimit.Decision, error) {
	c.ask.ID = rand.Text()
	d, err := c.take(cost)
	return c, d, err
}

func flightsComeBack(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, ratelimit.InFlight(4, time.Hour))
	one, d1, err := c.hold(3)
	if err != nil {
		return err
	}
	two, d2, err := c.hold(1)
	if err != nil {
		return err
	}
	if !d1.Allowed || d1.Remaining != 1 || !d2.Allowed || d2.Remaining != 0 || d2.ResetAfter > time.Hour || d2.ResetAfter < time.Minute {
		return fmt.Errorf("3 and 1 of 4 in flight for an hour: got %+v and %+v", d1, d2)
	}
	if _, d, err := c.hold(1); err != nil || d.Allowed || d.Remaining != 0 || d.RetryAfter <= 0 || d.RetryAfter > time.Second {
		return fmt.Errorf("a fifth of 4: got %+v, %v; want a refusal of at most a second", d, err)
	}
	if err := one.undo(d1); err != nil {
		return err
	}
	if _, d, err := c.hold(3); err != nil || !d.Allowed || d.Remaining != 0 {
		return fmt.Errorf("after 3 of 4 were given back: got %+v, %v", d, err)
	}
	if err := errors.Join(one.undo(d1), two.undo(d2)); err != nil {
		return err
	}
	if _, d, err := c.hold(2); err != nil || d.Allowed || d.Remaining != 1 {
		return fmt.Errorf("3 were given back twice, 1 once, 3 are held: got %+v, %v", d, err)
	}
	return nil
}

func flightsTimeOut(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, ratelimit.InFlight(2, 300*time.Millisecond))
	begin := time.Now()
	_, d, err := c.hold(2)
	if err != nil || !d.Allowed {
		return fmt.Errorf("got %+v, %v", d, err)
	}
	if err := sleep(ctx, 100*time.Millisecond); err != nil {
		return err
	}
	_, early, err := c.hold(1)
	if err != nil {
		return err
	}
	if early.Allowed && slack(time.Since(begin)) < 300*time.Millisecond {
		return fmt.Errorf("2 of 2 held for 300 ms, a third granted after %v", time.Since(begin))
	}
	if err := sleep(ctx, slack(300*time.Millisecond)); err != nil {
		return err
	}
	if !early.Allowed {
		if _, d, err = c.hold(2); err != nil || !d.Allowed || d.Remaining != 0 {
			return fmt.Errorf("after their ttl: got %+v, %v", d, err)
		}
	}
	return nil
}

func returnFreesOwn(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, ratelimit.InFlight(2, 50*time.Millisecond))
	late, d, err := c.hold(2)
	if err != nil {
		return err
	}
	if err := sleep(ctx, slack(50*time.Millisecond)); err != nil {
		return err
	}
	c = c.with(ratelimit.InFlight(2, time.Hour))
	if _, d, err := c.hold(2); err != nil || !d.Allowed {
		return fmt.Errorf("got %+v, %v", d, err)
	}
	if err := late.undo(d); err != nil {
		return err
	}
	if _, d, err := c.hold(1); err != nil || d.Allowed {
		return fmt.Errorf("permits that had timed out were given back, and others held since came free: got %+v, %v", d, err)
	}
	return nil
}

func askedTwice(ctx context.Context, s ratelimit.Store) error {
	c := newClient(ctx, s, ratelimit.InFlight(2, time.Hour))
	one, d, err := c.hold(2)
	if err != nil || !d.Allowed {
		return fmt.Errorf("got %+v, %v", d, err)
	}
	if d, err := one.take(2); err != nil || !d.Allowed || d.Remaining != 0 {
		return fmt.Errorf("the same question again: got %+v, %v; want the same answer", d, err)
	}
	if err := one.undo(d); err != nil {
		return err
	}
	if _, d, err := c.hold(2); err != nil || !d.Allowed {
		return fmt.Errorf("after they were given back: got %+v, %v", d, err)
	}
	return nil
}

func flightBesideRate(ctx context.Context, s ratelimit.Store) error {
	flight := ratelimit.InFlight(3, time.Hour)
	c := newClient(ctx, s, flight.And(slow(4)))
	one, d, err := c.hold(3)
	if err != nil || !d.Allowed || d.Rule != 0 || d.Remaining != 0 {
		return fmt.Errorf("3 of 3 in flight and 4 at once: got %+v, %v", d, err)
	}
	if _, d, err := c.hold(1); err != nil || d.Allowed || d.Rule != 0 {
		return fmt.Errorf("a fourth in flight: got %+v, %v", d, err)
	}
	// Given back unused: the rate gets its permits, too.
	if err := one.undo(d); err != nil {
		return err
	}
	if _, d, err := c.hold(3); err != nil || !d.Allowed {
		return fmt.Errorf("after all was given back: got %+v, %v", d, err)
	}
	// What the rate refuses is not in flight.
	if _, d, err := c.with(ratelimit.InFlight(9, time.Hour).And(slow(4))).hold(2); err != nil || d.Allowed || d.Rule != 1 {
		return fmt.Errorf("5 of 4 at once: got %+v, %v", d, err)
	}
	if _, d, err := c.with(ratelimit.InFlight(9, time.Hour).And(slow(100))).hold(6); err != nil || !d.Allowed || d.Remaining != 0 {
		return fmt.Errorf("3 of 9 are in flight: got %+v, %v; want room for 6", d, err)
	}
	return nil
}
