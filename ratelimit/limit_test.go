package ratelimit

import (
	"math/big"
	"strings"
	"testing"
	"time"
)

func TestLimitString(t *testing.T) {
	for want, l := range map[string]Limit{
		"50 per 1s (burst 100)":                     PerSecond(50).Burst(100),
		"1000 per 1h0m0s":                           Per(1000, time.Hour),
		"50 per 1s (burst 100) and 1000 per 1h0m0s": PerSecond(50).Burst(100).And(Per(1000, time.Hour)),
		"no limit": {},
	} {
		if got := l.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestNewReportsEveryMistakeAtOnce(t *testing.T) {
	many := PerSecond(1)
	for range 8 {
		many = many.And(PerSecond(1))
	}
	for _, c := range []struct {
		name  string
		limit Limit
		opts  Options
		want  []string
	}{
		{"", PerSecond(1), Options{}, []string{`ratelimit: : name "": must be 1 to 64 letters, digits, '.', '_' or '-'`}},
		{"a b", PerSecond(0), Options{OnError: 7, Processes: -1, Timeout: -time.Second, Store: NewMemory(-5)}, []string{
			`ratelimit: a b: name "a b": must be 1 to 64 letters, digits, '.', '_' or '-'`,
			`ratelimit: a b: limit PerSecond(0): n must be 1 to 1000000000`,
			`ratelimit: a b: Options.OnError = 7: must be Local or Deny`,
			`ratelimit: a b: Options.Processes = -1: must be 0 to 10000 (0 means 1)`,
			`ratelimit: a b: Options.Timeout = -1s: must be >= 0 (0 means 50ms)`,
			`ratelimit: a b: Options.Store: NewMemory(-5): must be >= 0 (0 means 1048576)`,
		}},
		{"x", Calendar(0, 7, nil).And(InFlight(100_001, time.Microsecond)), Options{Lease: time.Minute}, []string{
			"ratelimit: x: limit Calendar(0, Unit(7)): n must be 1 to 1000000000",
			"ratelimit: x: limit Calendar(0, Unit(7)): unit must be Minute, Hour, Day, Week or Month",
			"ratelimit: x: limit InFlight(100001, 1µs): n must be 1 to 100000",
			"ratelimit: x: limit InFlight(100001, 1µs): ttl must be 1ms to 87600h0m0s",
			"ratelimit: x: Options.Lease = 1m0s: must be 0 to 10s (0 means none)",
		}},
		{"x", InFlight(1, time.Second).And(InFlight(1, time.Second)), Options{}, []string{"ratelimit: x: limit And: more than one InFlight"}},
		{"x", Calendar(1, Day, nil).Burst(2), Options{}, []string{"ratelimit: x: limit Burst(2): must follow PerSecond or Per"}},
		{"x", Limit{}, Options{}, []string{"ratelimit: x: limit: is the zero Limit: use PerSecond, Per, Calendar or InFlight"}},
		{"x", Per(-3, -time.Second).Burst(0), Options{}, []string{
			"ratelimit: x: limit Per(-3, -1s): n must be 1 to 1000000000",
			"ratelimit: x: limit Per(-3, -1s): d must be 1µs to 87600h0m0s",
			"ratelimit: x: limit Burst(0): must be 1 to 1000000000",
		}},
		{"x", PerSecond(1).And(PerSecond(2)).Burst(3), Options{}, []string{"ratelimit: x: limit Burst(3): must follow PerSecond or Per"}},
		{"x", Limit{}.Burst(3), Options{}, []string{"ratelimit: x: limit Burst(3): must follow PerSecond or Per"}},
		{"x", PerSecond(1).And(Limit{}), Options{}, []string{"ratelimit: x: limit And: a part is the zero Limit"}},
		{"x", many, Options{}, []string{"ratelimit: x: limit And: 9 parts: must be at most 8"}},
		{"x", Per(1, 365*24*time.Hour).Burst(1000), Options{}, []string{"ratelimit: x: limit: 1 per 8760h0m0s with burst 1000: the burst takes more than 142 years to come back"}},
	} {
		_, err := New(c.name, c.limit, c.opts)
		if want := strings.Join(c.want, "\n"); err == nil || err.Error() != want {
			t.Errorf("New(%q, %v)\n got %v\nwant %s", c.name, c.limit, err, want)
		}
	}
}

func TestLimitsAreImmutable(t *testing.T) {
	base := PerSecond(10)
	a, b := base.And(PerSecond(20)), base.And(PerSecond(30))
	base.Burst(99)
	if got := base.String() + "; " + a.String() + "; " + b.String(); got != "10 per 1s; 10 per 1s and 20 per 1s; 10 per 1s and 30 per 1s" {
		t.Errorf("got %s", got)
	}
	long := base.And(a).And(base).And(base) // of a length at which append would have room
	c, d := long.And(PerSecond(20)), long.And(PerSecond(30))
	if c.String() == d.String() {
		t.Errorf("two limits made of one share their end: %v", c)
	}
	a.Rules()[0].Burst = 1
	if got := a.Rules()[0].Burst; got != 10 {
		t.Errorf("a caller changed a limit's burst to %d", got)
	}
}

// checkUnits holds Units to its word: exact where it fits, never faster, less than one in a million slower, exact in a float64.
func checkUnits(t *testing.T, r Rule) {
	t.Helper()
	leak, unit := r.Units()
	if leak < 1 || unit < 1 {
		t.Fatalf("%+v: leak %d, unit %d", r, leak, unit)
	}
	full := new(big.Int).Mul(big.NewInt(int64(r.Burst)), big.NewInt(unit))
	if full.Cmp(big.NewInt(1<<52)) > 0 {
		t.Errorf("%+v: burst × unit = %v > 2^52", r, full)
	}
	per := int64((r.Per + time.Microsecond - 1) / time.Microsecond)
	want, got := big.NewRat(int64(r.N), per), big.NewRat(leak, unit)
	if got.Cmp(want) > 0 {
		t.Errorf("%+v: %v permits a microsecond are more than %v", r, got, want)
	}
	off, _ := new(big.Rat).Quo(new(big.Rat).Sub(want, got), want).Float64()
	if off > 1e-6 {
		t.Errorf("%+v: slower by %g", r, off)
	}
	exact := new(big.Int).Mul(big.NewInt(int64(r.Burst)), new(big.Int).Div(big.NewInt(per), new(big.Int).GCD(nil, nil, big.NewInt(int64(r.N)), big.NewInt(per))))
	if off != 0 && exact.Cmp(big.NewInt(1<<52)) <= 0 {
		t.Errorf("%+v: slower by %g although the exact numbers fit", r, off)
	}
}

func FuzzUnits(f *testing.F) {
	f.Add(1, int64(time.Second), 1)
	f.Add(50, int64(time.Second), 100)
	f.Add(999_983, int64(24*time.Hour), 999_983)
	f.Add(1_000_000_000, int64(time.Microsecond), 1_000_000_000)
	f.Add(7, int64(maxPer), 100)
	f.Add(999_999_937, int64(999_999_999_989*time.Microsecond), 999_999_937)
	f.Add(3, int64(time.Second+1), 3)
	f.Add(7, int64(maxPer), 7)
	f.Fuzz(func(t *testing.T, n int, per int64, burst int) {
		l := Per(n, time.Duration(per)).Burst(burst)
		if l.valid() != nil {
			return
		}
		checkUnits(t, l.rules[0])
		for _, p := range []int{1, 2, 7, maxProcesses} {
			s := l.rules[0].share(p)
			if s.leak < 1 || s.unit < 1 || s.Burst < 1 || int64(s.Burst) > (1<<62)/s.unit {
				t.Fatalf("share of %d: %+v", p, s)
			}
			if whole, part := big.NewRat(l.rules[0].leak, l.rules[0].unit), big.NewRat(s.leak*int64(p), 1); s.unit < maxShare/2 &&
				part.Quo(part, big.NewRat(s.unit, 1)).Cmp(whole) != 0 {
				t.Errorf("%d shares of %v make %v", p, whole, part)
			}
		}
	})
}

func TestHandMadeRulesCount(t *testing.T) {
	m := NewMemory(0)
	ask := Ask{Name: "n", Key: "k", Cost: 2, Rules: []Rule{{N: 1, Per: time.Hour, Burst: 3}}}
	if d, err := m.Take(t.Context(), ask); err != nil || !d.Allowed || d.Remaining != 1 {
		t.Errorf("got %+v, %v", d, err)
	}
	ask.Rules = nil
	if _, err := m.Take(t.Context(), ask); err == nil {
		t.Error("no rules: no error")
	}
}
