package lsn

import (
	"maps"
	"math/rand/v2"
	"testing"
)

func TestPositionsSortAsStrings(t *testing.T) {
	for range 10_000 {
		a := Position{rand.Uint32() >> rand.UintN(32), rand.Uint64() >> rand.UintN(64)}
		b := Position{a.Timeline, rand.Uint64() >> rand.UintN(64)}
		if (a.String() < b.String()) != (a.LSN < b.LSN) {
			t.Fatalf("%v and %v do not sort like their offsets", a, b)
		}
		if back, err := Parse(a.String()); err != nil || back != a {
			t.Fatalf("Parse(%q) = %v, %v", a.String(), back, err)
		}
	}
}

func TestParse(t *testing.T) {
	for _, bad := range []string{"", "1:2", "00000001:000000000000000", "00000001:00000000000000000", "00000001 0000000000000001",
		"0000000g:0000000000000001", "0000000a:0000000000000001", "+0000001:0000000000000001"} {
		if p, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) = %v", bad, p)
		}
	}
	if l, err := ParsePG("16/B374D848"); err != nil || l != 0x16_B374D848 || FormatPG(l) != "16/B374D848" {
		t.Errorf("ParsePG: %X, %v", l, err)
	}
	for _, bad := range []string{"", "16", "/", "16/", "x/1", "1/100000000"} {
		if l, err := ParsePG(bad); err == nil {
			t.Errorf("ParsePG(%q) = %X", bad, l)
		}
	}
}

func TestReaches(t *testing.T) {
	at := func(t uint32, l uint64) Position { return Position{t, l} }
	for _, c := range []struct {
		p, q Position
		want bool
	}{
		{at(1, 5), at(1, 5), true},
		{at(1, 4), at(1, 5), false},
		{at(1, 9), at(2, 5), false}, // another history
		{at(2, 4), at(1, 5), false}, // still before the fork
		{at(2, 5), at(1, 5), true},
		{at(1, 1), Position{}, true},
	} {
		if got := c.p.Reaches(c.q); got != c.want {
			t.Errorf("%v reaches %v: %v", c.p, c.q, got)
		}
	}
}

func TestParseHistory(t *testing.T) {
	got, err := ParseHistory("1\t0/3000060\tno recovery target specified\n\n# note\n2\t1/A0\tbefore 2000-01-01\n")
	if err != nil || !maps.Equal(got, map[uint32]uint64{1: 0x3000060, 2: 0x1_000000A0}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"1", "x\t0/1", "1\t1"} {
		if _, err := ParseHistory(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}
