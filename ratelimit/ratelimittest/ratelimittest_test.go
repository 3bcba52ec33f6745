package ratelimittest

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/fairlead/fairlead/ratelimit"
)

func TestMemoryConforms(t *testing.T) {
	Run(t, func(*testing.T) ratelimit.Store { return ratelimit.NewMemory(0) })
}

func TestSharedMemoryConforms(t *testing.T) {
	m := ratelimit.NewMemory(0)
	Run(t, func(*testing.T) ratelimit.Store { return m })
}

// storeFunc is a store that does something wrong with a good one.
type storeFunc func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error)

type broken struct {
	good   ratelimit.Store
	f      storeFunc
	giving func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) error // Return, if not nil
}

func (b broken) Take(ctx context.Context, ask ratelimit.Ask) (ratelimit.Decision, error) {
	return b.f(ctx, b.good, ask)
}

func (b broken) Return(ctx context.Context, ask ratelimit.Ask) error {
	if b.giving != nil {
		return b.giving(ctx, b.good, ask)
	}
	return b.good.Return(ctx, ask)
}

// Each store is broken in one way and must be found out by the properties named.
func TestBrokenStoresAreFoundOut(t *testing.T) {
	for name, c := range map[string]struct {
		store func() storeFunc
		want  []string
	}{
		"one too many": {func() storeFunc {
			return changed(func(rule ratelimit.Rule) ratelimit.Limit {
				return ratelimit.Per(rule.N, rule.Per).Burst(rule.Burst + 1)
			})
		}, []string{"ABurstIsExact", "ACostIsTakenWholeOrNotAtAll"}},
		"a tenth too fast": {func() storeFunc {
			return changed(func(rule ratelimit.Rule) ratelimit.Limit {
				return ratelimit.Per(rule.N*11, rule.Per*10).Burst(rule.Burst)
			})
		}, []string{"ABurstIsExact"}},
		"ten times too fast": {func() storeFunc {
			return changed(func(rule ratelimit.Rule) ratelimit.Limit {
				return ratelimit.Per(rule.N*10, rule.Per).Burst(rule.Burst)
			})
		}, []string{"ABurstIsExact", "NeverMoreThanBurstAndRate"}},
		"too slow": {func() storeFunc {
			return changed(func(rule ratelimit.Rule) ratelimit.Limit {
				return ratelimit.Per(rule.N, rule.Per*2).Burst(rule.Burst)
			})
		}, []string{"PermitsComeBackWhenPromised"}},
		"counts refusals": {func() storeFunc {
			var mu sync.Mutex
			strikes := map[string]int{}
			return func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
				d, err := good.Take(ctx, ask)
				mu.Lock()
				defer mu.Unlock()
				if !d.Allowed {
					strikes[ask.Name]++
					d.RetryAfter += time.Duration(strikes[ask.Name]) * time.Second
				}
				return d, err
			}
		}, []string{"RefusalsCostNothing"}},
		"charges a part of joined limits": {func() storeFunc {
			return func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
				var last ratelimit.Decision
				for i := range ask.Rules {
					one := ask
					one.Rules, one.Name = ask.Rules[i:i+1], ask.Name+string(rune('a'+i))
					d, err := good.Take(ctx, one)
					d.Rule = i
					if err != nil || !d.Allowed {
						return d, err
					}
					if i == 0 || d.Remaining < last.Remaining {
						last = d
					}
				}
				return last, nil
			}
		}, []string{"JoinedLimitsAreOneDecision"}},
		"ignores the key": {func() storeFunc {
			return func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
				ask.Key = ""
				return good.Take(ctx, ask)
			}
		}, []string{"KeysAndNamesAreApart", "AnyKeyWillDo"}},
		"ignores the name": {func() storeFunc {
			return func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
				ask.Name = "x"
				return good.Take(ctx, ask)
			}
		}, []string{"KeysAndNamesAreApart"}},
		"cuts long keys": {func() storeFunc {
			return func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
				ask.Key = ask.Key[:min(len(ask.Key), 1000)]
				return good.Take(ctx, ask)
			}
		}, []string{"AnyKeyWillDo"}},
		"forgets when the limit changes": {func() storeFunc {
			return func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
				for _, r := range ask.Rules {
					ask.Name += r.Per.String() + string(rune(r.Burst))
				}
				return good.Take(ctx, ask)
			}
		}, []string{"ASmallerLimitCutsWhatIsStored", "AnotherRateKeepsWhatIsUsed"}},
		"saves up idle time": {func() storeFunc { return new(saver).take }, []string{"IdleTimeIsNotSavedUp"}},
		"reads, then writes": {func() storeFunc { return new(racy).take }, []string{"ConcurrentTakesAreAtomic"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, p := range propertiesOf(ratelimit.NewMemory(0)) {
				if slices.Contains(c.want, p.name) && !foundOut(t, p.check, c.store) {
					t.Errorf("%s passed", p.name)
				}
			}
		})
	}
}

// foundOut tries more than once: on a machine that stalls a fault of timing can go unseen, where a sound store never fails.
func foundOut(t *testing.T, check func(context.Context, ratelimit.Store) error, store func() storeFunc) bool {
	for range 20 {
		if check(t.Context(), broken{good: ratelimit.NewMemory(0), f: store()}) != nil {
			return true
		}
	}
	return false
}

// changed decides by other rules than were asked for.
func changed(change func(ratelimit.Rule) ratelimit.Limit) storeFunc {
	return func(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
		var rules []ratelimit.Rule
		for _, r := range ask.Rules {
			rules = append(rules, change(r).Rules()...)
		}
		ask.Rules = rules
		return good.Take(ctx, ask)
	}
}

// saver is a token bucket without a lid.
type saver struct {
	mu   sync.Mutex
	keys map[string]*saved
}

type saved struct {
	tokens float64
	at     time.Time
}

func (s *saver) take(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil {
		s.keys = map[string]*saved{}
	}
	r := ask.Rules[0]
	b := s.keys[ask.Name]
	if b == nil {
		b = &saved{float64(r.Burst), time.Now()}
		s.keys[ask.Name] = b
	}
	b.tokens += float64(r.N) * float64(time.Since(b.at)) / float64(r.Per)
	b.at = time.Now()
	if b.tokens < float64(ask.Cost) {
		return ratelimit.Decision{Limit: r.Burst, RetryAfter: time.Millisecond, ResetAfter: time.Second}, nil
	}
	b.tokens -= float64(ask.Cost)
	return ratelimit.Decision{Allowed: true, Limit: r.Burst, Remaining: int(b.tokens)}, nil
}

// racy counts in two steps.
type racy struct {
	mu   sync.Mutex
	used map[string]int
}

func (s *racy) take(ctx context.Context, good ratelimit.Store, ask ratelimit.Ask) (ratelimit.Decision, error) {
	s.mu.Lock()
	used := s.used[ask.Name]
	s.mu.Unlock()
	runtime.Gosched()
	time.Sleep(time.Microsecond)
	if most := ask.Rules[len(ask.Rules)-1].Burst; used+ask.Cost > most {
		return ratelimit.Decision{Limit: most, RetryAfter: time.Hour, ResetAfter: time.Hour}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used == nil {
		s.used = map[string]int{}
	}
	s.used[ask.Name] = used + ask.Cost
	return ratelimit.Decision{Allowed: true}, nil
}
