package cache

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestKeysHaveTextsOfTheirOwn(t *testing.T) {
	type pair struct{ A, B string }
	type id [2]uint8
	distinct := func(texts ...string) {
		t.Helper()
		seen := map[string]bool{}
		for _, s := range texts {
			if seen[s] {
				t.Errorf("%q is the text of two keys", s)
			}
			seen[s] = true
		}
	}
	distinct(encodeKey(pair{"a", "b"}), encodeKey(pair{"ab", ""}), encodeKey(pair{"", "ab"}), encodeKey(pair{"a1:", "b"}), encodeKey(pair{"a", "1:b"}))
	distinct(encodeKey(id{1, 11}), encodeKey(id{11, 1}), encodeKey(id{1, 1}))
	distinct(encodeKey(int64(-1)), encodeKey(int64(1)))
	distinct(encodeKey(uint8(200)), encodeKey(uint8(20)))
	long := strings.Repeat("x", 300)
	digest := bounded(long)
	distinct(bounded(long), bounded(long+"y"), bounded(digest), bounded(strings.Repeat("x", 200)))
	if len(digest) > maxKeyText {
		t.Errorf("a bounded text has %d bytes", len(digest))
	}
	if got := encodeKey(netip.MustParseAddr("::1")); got != "::1" {
		t.Errorf("an address is %q", got)
	}
	type named string
	if got := encodeKey(named("n")); got != "n" {
		t.Errorf("a named string is %q", got)
	}
}

func TestKeyTypesThatNeedAFunction(t *testing.T) {
	type hidden struct{ addr netip.Addr }
	_ = hidden{}.addr
	for _, bad := range []error{
		encodable[float64](), encodable[*int](), encodable[any](), encodable[struct{ F float32 }](), encodable[hidden](), encodable[[2]any](),
	} {
		if bad == nil {
			t.Error("accepted")
		}
	}
	for _, err := range []error{encodable[string](), encodable[time.Time](), encodable[[16]byte](), encodable[struct{ A, b int }](), encodable[netip.Addr]()} {
		if err != nil {
			t.Error(err)
		}
	}
}

func FuzzEnvelope(f *testing.F) {
	good := envelope{schema: 7, fresh: time.Minute, kept: time.Hour, took: time.Second, heard: "0001.0002", token: "db=01", value: []byte("value"), compressed: true}
	f.Add(good.seal())
	f.Add([]byte(envelopeMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := openEnvelope(data, 7)
		if err == nil && string(e.seal()) != string(data) {
			t.Errorf("%q reads as %+v, which is written otherwise", data, e)
		}
	})
}

func TestSchemaFollowsTheType(t *testing.T) {
	type a struct{ Name string }
	type b struct {
		Name string `json:"n"`
	}
	type list struct {
		Next *list
		Of   []a
	}
	seen := map[uint64]bool{}
	for _, s := range []uint64{
		schemaOf("", reflect.TypeFor[a]()), schemaOf("2", reflect.TypeFor[a]()), schemaOf("", reflect.TypeFor[b]()),
		schemaOf("", reflect.TypeFor[list]()), schemaOf("", reflect.TypeFor[int]()), schemaOf("", reflect.TypeFor[map[string]a]()),
	} {
		if seen[s] {
			t.Error("two types share a schema")
		}
		seen[s] = true
	}
	if !seen[schemaOf("", reflect.TypeFor[a]())] {
		t.Error("a schema changes")
	}
}
