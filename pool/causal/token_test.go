package causal

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestMerge(t *testing.T) {
	for _, c := range []struct {
		in   []string
		want string
	}{
		{nil, ""},
		{[]string{"", ""}, ""},
		{[]string{"a=1", "a=2"}, "a=2"},
		{[]string{"b=1", "a=2"}, "a=2,b=1"},
		{[]string{"a=00000001:00FF", "a=00000002:0001"}, "a=00000002:0001"},
	} {
		if got, err := Merge(c.in...); err != nil || got != c.want {
			t.Errorf("Merge(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func TestMalformedTokens(t *testing.T) {
	var many []string
	for c := range maxTags + 1 {
		many = append(many, string(rune('a'+c))+"=1")
	}
	for _, token := range []string{
		"a", "=1", "a=", "a=1,", ",a=1", "a=1,,b=2", "b=1,a=2", "a=1,a=2", "a=1=2", "a b=1", "a=1;b", "ä=1", "*=", "*=x",
		"*=-5", "*=07", strings.Repeat("x", maxText+1) + "=1", "a=" + strings.Repeat("x", maxText+1), strings.Join(many, ","),
	} {
		if _, err := Merge(token); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q was taken: %v", token, err)
		}
	}
}

// Whoever can write a token cannot send the fleet's reads to the primary for ever.
func TestTheDemandForTheAuthorityIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, err := AtLeast(t.Context(), "*=99999999999")
		if err != nil {
			t.Fatal(err)
		}
		if _, settled := From(ctx).Domain("db").Bound(); settled {
			t.Fatal("the demand was ignored")
		}
		time.Sleep(distrust + 2*time.Second)
		if _, settled := From(ctx).Domain("db").Bound(); !settled {
			t.Fatal("the demand outlives its longest time")
		}
		if token, _ := Token(ctx); token != "" {
			t.Fatalf("Token = %q still carries it", token)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add("a=1")
	f.Add("a=1,b=00000001:0000000000000001,*=1893456000")
	f.Fuzz(func(t *testing.T, token string) {
		s, err := parse(token)
		if err != nil {
			return
		}
		again, err := parse(s.String())
		if err != nil {
			t.Fatalf("%q gives %q, which is malformed: %v", token, s.String(), err)
		}
		if again.String() != s.String() {
			t.Fatalf("%q is not stable: %q", s.String(), again.String())
		}
	})
}

func FuzzOpen(f *testing.F) {
	o := Options{Keys: [][]byte{[]byte("0123456789abcdef")}}
	f.Add(o.Seal("a=1"))
	f.Add("")
	f.Fuzz(func(t *testing.T, sealed string) {
		token, err := o.Open(sealed)
		if err == nil && o.Seal(token) != sealed {
			t.Fatalf("%q opens as %q and is not its seal", sealed, token)
		}
	})
}
