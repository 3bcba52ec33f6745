package ratelimittest

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"github.com/fairlead/fairlead/ratelimit"
)

func asIs(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
	return good.Take(ctx, ask)
}

// Each store is broken in what it does besides rates, or with what is given back.
func TestStoresWithOneBrokenKindAreFoundOut(t *testing.T) {
	type giving = func(context.Context, ratelimit.Store, ratelimit.Ask) error
	each := func(change func(*ratelimit.Rule)) storeFunc {
		return func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
			rules := make([]ratelimit.Rule, len(ask.Rules))
			copy(rules, ask.Rules)
			for i := range rules {
				change(&rules[i])
			}
			ask.Rules = rules
			return good.Take(ctx, ask)
		}
	}
	for name, c := range map[string]struct {
		take   storeFunc
		giving giving
		want   []string
	}{
		"grants the cost and no more": {func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
			ask.Most = 0
			return good.Take(ctx, ask)
		}, nil, []string{"AsManyAsFitAreGranted"}},
		"returns nothing": {asIs, func(context.Context, ratelimit.Store, ratelimit.Ask) error { return nil }, []string{"ReturnedPermitsAreThereAgain", "PermitsInFlightComeBack"}},
		"returns what drained": {asIs, func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) error {
			ask.At += 1 << 40
			return good.Return(ctx, ask)
		}, []string{"DrainedPermitsAreNotReturned"}},
		"returns to any unit": {asIs, func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) error {
			ask.At += 25 * 3600 * 1e6
			return good.Return(ctx, ask)
		}, []string{"AQuotaIsForItsUnit"}},
		"frees anybody's": {each(func(*ratelimit.Rule) {}), func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) error {
			ask.ID = "one"
			return good.Return(ctx, ask)
		}, []string{"PermitsInFlightComeBack"}},
		"counts months for days": {each(func(r *ratelimit.Rule) {
			if r.Unit != 0 {
				r.Unit = ratelimit.Month
			}
		}), nil, []string{"AQuotaIsForItsUnit"}},
		"knows no zones": {each(func(r *ratelimit.Rule) {
			if r.Unit != 0 {
				r.Location = time.UTC
			}
		}), nil, []string{"AQuotaIsNewInTheNextUnit"}},
		"holds for ever": {each(func(r *ratelimit.Rule) {
			if r.TTL != 0 {
				r.TTL = time.Hour
			}
		}), nil, []string{"PermitsInFlightTimeOut"}},
		"holds for a moment": {each(func(r *ratelimit.Rule) {
			if r.TTL != 0 {
				r.TTL = time.Millisecond
			}
		}), nil, []string{"PermitsInFlightTimeOut"}},
		"holds twice": {func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
			ask.ID = rand.Text()
			return good.Take(ctx, ask)
		}, nil, []string{"AskedTwiceHoldsOnce"}},
		"forgets the rate beside it": {func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
			ask.Rules = ask.Rules[:1]
			return good.Take(ctx, ask)
		}, nil, []string{"InFlightBesideARate", "AQuotaBesideARate"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, want := range c.want {
				found := false
				for _, p := range propertiesOf(ratelimit.NewMemory(0)) {
					if p.name != want {
						continue
					}
					for try := 0; try < 20 && !found; try++ {
						found = p.check(t.Context(), broken{ratelimit.NewMemory(0), c.take, c.giving}) != nil
					}
				}
				if !found {
					t.Errorf("%s passed", want)
				}
			}
		})
	}
}
