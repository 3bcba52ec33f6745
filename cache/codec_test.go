package cache_test

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"

	"github.com/fairlead/fairlead/cache"
)

// raw is a codec of strings as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return []byte(v.(string)), nil }

func (raw) Unmarshal(data []byte, v any) error {
	if strings.HasPrefix(string(data), "bad") {
		return errors.New("cannot be decoded")
	}
	*v.(*string) = string(data)
	return nil
}

func noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return string(b)
}

// stored returns the record of key 1.
func (s *fakeStore) stored() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spaces["test"].key("1").data
}

func TestCompression(t *testing.T) {
	text := strings.Repeat("all work and no play makes a dull boy. ", 1000)
	for name, c := range map[string]struct {
		value string
		less  bool
	}{
		"text": {text, true}, "short text": {text[:1000], false}, "noise": {noise(40_000), false},
		"just under a tenth": {noise(9500) + strings.Repeat("x", 500), false}, "nothing": {"", false},
	} {
		store := newFakeStore()
		options := cache.Options[int, string]{Remote: store.node(), RemoteTimeout: patient, Codec: raw{}}
		load := func(context.Context, int) (string, error) { return c.value, nil }
		if got, err := open(t, load, options).Get(t.Context(), 1); err != nil || got != c.value {
			t.Fatalf("%s: %d bytes, %v", name, len(got), err)
		}
		if n := len(store.stored()); (n < len(c.value)*9/10) != c.less {
			t.Errorf("%s: %d bytes are stored as %d", name, len(c.value), n)
		}
		options.Remote = store.node()
		other := open(t, load, options)
		got, err := other.Get(t.Context(), 1)
		if err != nil || got != c.value || other.Stats().Remote != 1 {
			t.Errorf("%s: read back %d bytes, %v; %+v", name, len(got), err, other.Stats())
		}
	}
}

// A value over the limit is not stored, and is not loaded for each Get either.
func TestMaxValueSize(t *testing.T) {
	store, loads := newFakeStore(), 0
	big := strings.Repeat("x", 2000)
	load := func(context.Context, int) (string, error) { loads++; return big, nil }
	options := cache.Options[int, string]{Remote: store.node(), RemoteTimeout: patient, Codec: raw{}, MaxValueSize: 1999}
	c := open(t, load, options)
	connected(t, c) // what is in memory only would be loaded again
	for range 3 {
		got, err := c.Get(t.Context(), 1)
		want(t, got, err, big)
	}
	if s := c.Stats(); s.Unshared != 1 || loads != 1 || store.stored() != "" {
		t.Errorf("%d loads, %d bytes stored; %+v", loads, len(store.stored()), s)
	}
	// Nor is a record read that another process stored, which allows more: its size is looked at before it is unpacked.
	options.Remote, options.MaxValueSize = store.node(), 0
	if got, err := open(t, load, options).Get(t.Context(), 1); err != nil || got != big || store.stored() == "" {
		t.Fatal(len(got), err)
	}
	options.Remote, options.MaxValueSize = store.node(), 1999
	c = open(t, load, options)
	got, err := c.Get(t.Context(), 1)
	want(t, got, err, big)
	if s := c.Stats(); s.Undecodable == 0 || s.Miss != 1 {
		t.Errorf("%+v", s)
	}
}

// spoilt replaces the value in a record and makes its checksum right again.
func spoilt(record string, compressed bool, value []byte) string {
	b := []byte(record)
	at := 34 + int(b[33])
	at += 2 + int(binary.BigEndian.Uint16(b[at:]))
	b = append(b[:at:at], value...)
	b[4] = 0
	if compressed {
		b[4] = 1
	}
	return string(binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))))
}

// Whatever is in the shared tier, a Get returns the origin's value or what a cache had stored, and no panic or error comes of it.
func FuzzRecord(f *testing.F) {
	const value = "the value"
	load := func(context.Context, int) (string, error) { return value, nil }
	options := func(store *fakeStore) cache.Options[int, string] {
		return cache.Options[int, string]{Remote: store.node(), RemoteTimeout: patient, Codec: raw{}, MaxValueSize: 1 << 16}
	}
	store := newFakeStore()
	c := open(f, load, options(store))
	if _, err := c.Get(f.Context(), 1); err != nil {
		f.Fatal(err)
	}
	good := store.stored()
	f.Add(good, false)
	f.Add(good[:len(good)-1], false)
	f.Add("", false)
	f.Add("FLc1 of another version", false)
	f.Add("FLc2", false)
	f.Add(value, true)
	f.Add("bad", true)
	f.Add(string(s2.Encode(nil, make([]byte, 1<<20))), true)               // larger than allowed once it is unpacked
	f.Add(strings.Repeat("x", 1<<16+1), true)                              // larger as it is
	f.Add("\xff\xff\xff\xff\x0f", true)                                    // says that it is 4 GiB
	f.Add(string(s2.Encode(nil, []byte(strings.Repeat("x", 1000)))), true) // fine, and not what the origin has
	f.Fuzz(func(t *testing.T, data string, inside bool) {
		records := []string{data}
		if inside {
			records = []string{spoilt(good, false, []byte(data)), spoilt(good, true, []byte(data))}
		}
		for i, record := range records {
			store := newFakeStore()
			if _, err := open(t, load, options(store)).Get(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			store.mu.Lock()
			store.spaces["test"].key("1").data = record
			store.mu.Unlock()
			c := open(t, load, options(store))
			got, err := c.Get(t.Context(), 1)
			s := c.Stats()
			switch {
			case err != nil:
				t.Fatalf("%q: %v", record, err)
			case s.Remote == 1 && !inside && got == value: // one that another run stored
			case s.Remote == 1 && inside && i == 0: // a checksum is no signature: this is as good as stored
				if got != data || len(data) > 1<<16 {
					t.Fatalf("got %q, want %q", got, data)
				}
			case s.Remote == 1 && inside:
				if plain, err := s2.Decode(nil, []byte(data)); err != nil || got != string(plain) || len(plain) > 1<<16 {
					t.Fatalf("%q is read as %q", data, got)
				}
			case s.Miss != 1 || s.Undecodable == 0 || got != value:
				t.Fatalf("%q is read as %q: %+v", record, got, s)
			}
		}
	})
}
