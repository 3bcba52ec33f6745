package ratelimit

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// model is the textbook's bucket in fractions, a permit the unit.
type model struct {
	rule  Rule
	level *big.Rat
	at    int64
}

func (m *model) drain(now int64) {
	per := int64((m.rule.Per + time.Microsecond - 1) / time.Microsecond)
	m.level.Sub(m.level, new(big.Rat).Mul(big.NewRat(int64(m.rule.N), per), big.NewRat(now-m.at, 1)))
	if m.level.Sign() < 0 {
		m.level.SetInt64(0)
	}
	m.at = now
}

func (m *model) fits(cost int) bool {
	after := new(big.Rat).Add(m.level, big.NewRat(int64(cost), 1))
	return after.Cmp(big.NewRat(int64(m.rule.Burst), 1)) <= 0
}

func (m *model) remaining() int {
	left := new(big.Rat).Sub(big.NewRat(int64(m.rule.Burst), 1), m.level)
	return int(new(big.Int).Div(left.Num(), left.Denom()).Int64())
}

// TestMemoryIsExact compares every decision of random histories with the model, and RetryAfter with what happens: refused a
// microsecond before, granted on time.
func TestMemoryIsExact(t *testing.T) {
	limits := []Limit{
		PerSecond(50).Burst(100),
		PerSecond(3),
		PerSecond(700).Burst(5),
		PerSecond(999_983).Burst(1000),
		Per(7, 210*time.Millisecond+time.Microsecond).Burst(3),
		Per(1, time.Hour).Burst(2),
		PerSecond(100).Burst(10).And(Per(300, time.Minute).Burst(40)),
		Per(5, time.Second).And(Per(11, 3*time.Second).Burst(7)).And(Per(13, 7*time.Second)),
	}
	for i, limit := range limits {
		t.Run(limit.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(1, uint64(i)))
				store := NewMemory(0)
				start := time.Now()
				var models []*model
				for _, r := range limit.rules {
					models = append(models, &model{rule: r, level: new(big.Rat)})
				}
				slowest := limit.rules[0]
				for _, r := range limit.rules {
					if r.Per/time.Duration(r.N) > slowest.Per/time.Duration(slowest.N) {
						slowest = r
					}
				}
				refusals := 0
				for step := range 3000 {
					switch rng.IntN(4) {
					case 0:
						time.Sleep(time.Duration(rng.Int64N(int64(slowest.Per / time.Duration(slowest.N) * 3))))
					case 1:
						time.Sleep(time.Duration(rng.Int64N(5000)))
					}
					ask := Ask{Name: "n", Key: "k", Cost: 1 + rng.IntN(maxCost(limit.rules))/(1+rng.IntN(8)), Rules: limit.rules}
					now := time.Since(start).Microseconds()
					want := true
					for _, m := range models {
						m.drain(now)
						want = want && m.fits(ask.Cost)
					}
					if want {
						for _, m := range models {
							m.level.Add(m.level, big.NewRat(int64(ask.Cost), 1))
						}
					}
					d, err := store.Take(t.Context(), ask)
					if err != nil || d.Allowed != want {
						t.Fatalf("step %d, cost %d: got %+v, %v; want allowed %v", step, ask.Cost, d, err, want)
					}
					if got, want := d.Remaining, models[d.Rule].remaining(); got != want {
						t.Fatalf("step %d: %+v: want %d remaining of that rule", step, d, want)
					}
					if d.Allowed {
						continue
					}
					refusals++
					time.Sleep(d.RetryAfter - time.Microsecond)
					if early := store.take(ask); early.Allowed {
						t.Fatalf("step %d: granted 1 µs before the RetryAfter of %+v", step, d)
					}
					time.Sleep(time.Microsecond)
					if late := store.take(ask); !late.Allowed {
						t.Fatalf("step %d: refused after the RetryAfter of %+v: %+v", step, d, late)
					}
					now = time.Since(start).Microseconds()
					for _, m := range models {
						m.drain(now)
						if m.level.Add(m.level, big.NewRat(int64(ask.Cost), 1)); m.level.Cmp(big.NewRat(int64(m.rule.Burst), 1)) > 0 {
							t.Fatalf("step %d: the model overflows", step)
						}
					}
				}
				if refusals < 100 {
					t.Errorf("only %d refusals: the test tests little", refusals)
				}
			})
		})
	}
}

// TestResetAfterIsExact: the whole burst is there then, and not before.
func TestResetAfterIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewMemory(0)
		ask := Ask{Name: "n", Key: "k", Cost: 5, Rules: PerSecond(700).Burst(20).rules}
		d := store.take(ask)
		ask.Cost = 20
		time.Sleep(d.ResetAfter - time.Microsecond)
		if d := store.take(ask); d.Allowed {
			t.Errorf("the burst was whole 1 µs early: %+v", d)
		}
		time.Sleep(time.Microsecond)
		if d := store.take(ask); !d.Allowed {
			t.Errorf("the burst was not whole in time: %+v", d)
		}
	})
}

// TestMemoryHoldsTheBoundInAnyWindow: at most burst + ⌊rate·t⌋ between any two moments.
func TestMemoryHoldsTheBoundInAnyWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewMemory(0)
		ask := Ask{Name: "n", Key: "k", Cost: 1, Rules: PerSecond(700).Burst(20).rules}
		rng := rand.New(rand.NewPCG(2, 2))
		start := time.Now()
		var at []int64
		for len(at) < 3000 {
			if store.take(ask).Allowed {
				at = append(at, time.Since(start).Microseconds())
			}
			time.Sleep(time.Duration(rng.Int64N(int64(time.Millisecond) * (1 + rng.Int64N(30)/29*50))))
		}
		for i := range at {
			for j := i; j < len(at); j++ {
				if n, most := int64(j-i+1), 20+(at[j]-at[i])*700/1_000_000; n > most {
					t.Fatalf("grants %d to %d, %d µs apart, are %d: want at most %d", i, j, at[j]-at[i], n, most)
				}
			}
		}
	})
}

// TestAFloodOfKeysIsBounded: made-up keys do not grow memory past its bound and do not free a key that used up its limit.
func TestAFloodOfKeysIsBounded(t *testing.T) {
	const keys = 1 << 12
	store := NewMemory(keys)
	rules := Per(5, time.Hour).rules
	victim := Ask{Name: "login", Key: "victim", Cost: 5, Rules: rules}
	if !store.take(victim).Allowed {
		t.Fatal("refused a full burst")
	}
	victim.Cost = 1
	for i := range 200_000 {
		store.take(Ask{Name: "login", Key: fmt.Sprint("flood", i), Cost: 1, Rules: rules})
		if i%1000 == 0 {
			if d := store.take(victim); d.Allowed {
				t.Fatalf("after %d made-up keys the victim's limit was forgotten: %+v", i, d)
			}
			if n := store.len(); n > keys {
				t.Fatalf("%d keys held: want at most %d", n, keys)
			}
		}
	}
	if store.evicted() == 0 {
		t.Error("nothing was evicted: the test tests nothing")
	}
}

// TestIdleKeysGoAway: keys that have drained are gone after some traffic, and what is in use is not.
func TestIdleKeysGoAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewMemory(120_000)
		for i := range 30_000 {
			store.take(Ask{Name: "n", Key: fmt.Sprint(i), Cost: 1, Rules: PerSecond(10).rules})
		}
		if n := store.len(); n != 30_000 {
			t.Fatalf("%d keys held: want all of 30000, none has drained", n)
		}
		used := Ask{Name: "n", Key: "used", Cost: 7, Rules: Per(10, time.Hour).rules}
		store.take(used)
		time.Sleep(time.Second)
		for i := range 10_000 {
			store.take(Ask{Name: "n", Key: fmt.Sprint("new", i), Cost: 1, Rules: PerSecond(10).rules})
		}
		time.Sleep(time.Second)
		for range 60_000 / sweepCells * sweepEvery {
			store.take(Ask{Name: "n", Key: fmt.Sprint(rand.IntN(1000)), Cost: 1, Rules: PerSecond(10).rules})
		}
		if n := store.len(); n > 3000 {
			t.Errorf("%d keys held: want about the thousand in use", n)
		}
		if store.evicted() != 0 {
			t.Errorf("%d evicted although there was room", store.evicted())
		}
		if d := store.take(used); d.Allowed {
			t.Errorf("a key in use was forgotten: %+v", d)
		}
	})
}

func TestSmallMemoryStillHoldsJoinedLimits(t *testing.T) {
	store := NewMemory(1)
	limit := Per(3, time.Hour).And(Per(5, time.Hour)).And(Per(4, time.Hour))
	for i := range 5 {
		d := store.take(Ask{Name: "n", Key: "k", Cost: 1, Rules: limit.rules})
		if d.Allowed {
			continue
		}
		if i < 3 {
			t.Errorf("take %d: got %+v", i, d)
		}
	}
	if n := store.len(); n > 64*2 {
		t.Errorf("%d rates held", n)
	}
}
