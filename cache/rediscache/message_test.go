package rediscache

import (
	"reflect"
	"testing"
	"time"

	"github.com/fairlead/fairlead/cache"
)

func TestMessage(t *testing.T) {
	inv := cache.Invalidation{From: "me", Token: "db=01", Keys: []string{"", "a:b", "7:\x00\xff ", "é"}, Tags: []string{"", "k"}, All: true}
	got, err := decode("0000000000000001 12 " + encode(inv))
	want := cache.Event{Connected: true, Incarnation: "0000000000000001", N: 12, Invalidation: inv}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	got, err = decode("0000000000000001 12 ")
	want.Invalidation = cache.Invalidation{}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("beacon: got %+v, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("0000000000000001 12 " + encode(cache.Invalidation{From: "me", Keys: []string{"a"}}))
	f.Add("x 1 99999999999999999999:a")
	f.Add("x 1 5:a")
	f.Add("x 1 1:a0:1:*")
	f.Add("x 1 1:a0:2:tx")
	f.Fuzz(func(t *testing.T, message string) {
		if ev, err := decode(message); err == nil && len(ev.Invalidation.Keys) > 0 && ev.Incarnation == "" {
			t.Errorf("%q reads as %+v", message, ev)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add(seal(cache.Fill{Lease: "0123456789abcdef", Data: []byte("v"), Tags: []string{"a", "bc"}}))
	f.Add("0123456789abcdef")
	f.Add("0123456789abcdef\xff\x05abc")
	f.Fuzz(func(t *testing.T, text string) {
		r := record(text, time.Minute)
		switch {
		case r.ID == "" && len(text) > idSize, r.ID != "" && len(text) <= idSize:
			t.Errorf("%q reads as %+v", text, r)
		case r.ID != "" && r.Stamp == "":
			if again := seal(cache.Fill{Lease: r.ID, Data: r.Data, Tags: r.Tags}); again != text {
				t.Errorf("%q reads as %+v, which is written %q", text, r, again)
			}
		}
	})
}
