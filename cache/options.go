package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"
)

// Options says how a [Cache] behaves. The zero value works: an in-process cache of 10000 values, each good for a minute.
// TTL and the two windows of RFC 5861 after it say how long a value is good; nothing else does.
type Options[K comparable, V any] struct {
	// TTL is how long a loaded value is fresh. 0 means a minute. Up to a tenth is taken off at random, so that values loaded
	// together do not expire together.
	TTL time.Duration
	// StaleWhileRevalidate is how long after TTL a value is still served while one load behind it fetches a new one.
	// 0 means not at all.
	StaleWhileRevalidate time.Duration
	// StaleIfError is how long after TTL a value is still served where its load failed. 0 means not at all.
	StaleIfError time.Duration

	// EarlyRefresh is how eagerly a value is fetched anew before its TTL ends, so that a hot key does not expire: a hit that finds
	// it fresh begins a load behind it with a probability that grows towards the end and with the time that loads take. It is the
	// beta of "Optimal Probabilistic Cache Stampede Prevention" (Vattani et al., VLDB 2015): 0 means 1, more is earlier, a negative
	// one never.
	EarlyRefresh float64

	// Meta says of a value that was loaded how long it is good and which tags it has, by which InvalidateTag finds it. nil means
	// TTL and no tags. "Not found" has neither.
	Meta func(K, V) Meta

	// MaxEntries is how many values memory holds. 0 means 10000.
	MaxEntries int

	// LoadMany loads several keys at once for GetMany. A key that the result lacks does not exist. It runs under the same
	// rules as the loader. nil means that GetMany calls the loader for each key, at most 16 at a time.
	LoadMany func(ctx context.Context, keys []K) (map[K]V, error)
	// LoadTimeout bounds a load, which has failed then. 0 means 30 s.
	LoadTimeout time.Duration

	// SoftTimeout is how long a Get waits for a load if there is a stale value to serve instead, within StaleIfError. 0 means as
	// long as the load takes. The load goes on, and what it brings is kept.
	SoftTimeout time.Duration
	// HardTimeout is how long a Get waits for a value at all. 0 means as long as the load takes. The load goes on, and what it
	// brings is kept.
	HardTimeout time.Duration

	// NotFound says which of the loader's errors mean that there is no such key. They are not failures of the origin: they
	// are remembered for NegativeTTL, in memory only, and left out of what GetMany returns. nil means that none does.
	NotFound func(error) bool
	// NegativeTTL is how long "not found" is remembered. 0 means 5 s or TTL, whichever is less; negative means not at all.
	NegativeTTL time.Duration

	// Remote is the tier that the processes share. nil makes an in-process cache.
	Remote Remote
	// RemoteTimeout is how long a Get waits for each answer of Remote before it goes on without: 0 means 250 ms. Where a
	// usable value is at hand it waits a fifth of that, and Invalidate waits four times as long.
	RemoteTimeout time.Duration
	// DisconnectedTTL is how long values in memory are trusted while no invalidations can be heard. 0 means 5 s.
	DisconnectedTTL time.Duration

	// Codec turns values into bytes for Remote. nil means encoding/json. From 1 KiB on they are compressed if that saves a tenth.
	Codec Codec
	// MaxValueSize is how many bytes a value may have as Codec writes it; larger ones are kept in memory only, for DisconnectedTTL
	// at most, and larger records are not read. 0 means 4 MiB.
	MaxValueSize int
	// Key turns a key into text, a different one for each key. nil means text of the cache's own for strings, integers,
	// bools, arrays and structs of those and types with MarshalText; other key types need it.
	Key func(K) string
	// Schema tells values of one meaning from those of another where their Go type does not: a value in Remote that was
	// stored with another Schema, or another Go type, is a miss.
	Schema string

	// Clone returns a copy for each reader who may change what it gets. nil means that all readers share one value and none changes
	// it, which costs nothing.
	Clone func(V) V

	// Logger is told of lost and regained connections and of values that cannot be decoded. nil means slog.Default().
	Logger *slog.Logger
}

// Meta is what [Options].Meta says of a value.
type Meta struct {
	// TTL is how long the value is fresh. 0 means Options.TTL; negative means that it is not kept.
	TTL time.Duration
	// Tags are names shared with other values, at most 64.
	Tags []string
}

const (
	defaultTTL             = time.Minute
	defaultMaxEntries      = 10_000
	defaultLoadTimeout     = 30 * time.Second
	defaultNegativeTTL     = 5 * time.Second
	defaultRemoteTimeout   = 250 * time.Millisecond
	defaultDisconnectedTTL = 5 * time.Second
	defaultMaxValueSize    = 4 << 20
)

// check reports every value that is out of range.
func (o *Options[K, V]) check(name string, load func(context.Context, K) (V, error)) error {
	var errs []error
	if !validName(name) {
		errs = append(errs, fmt.Errorf("cache: name = %q: must be 1 to 40 letters, digits, '.', '_' or '-'", name))
	}
	if load == nil {
		errs = append(errs, errors.New("cache: load is nil: must be the function that fetches a value"))
	}
	for _, f := range []struct {
		name  string
		value time.Duration
		zero  time.Duration
	}{
		{"TTL", o.TTL, defaultTTL},
		{"StaleWhileRevalidate", o.StaleWhileRevalidate, 0},
		{"StaleIfError", o.StaleIfError, 0},
		{"LoadTimeout", o.LoadTimeout, defaultLoadTimeout},
		{"SoftTimeout", o.SoftTimeout, 0},
		{"HardTimeout", o.HardTimeout, 0},
		{"RemoteTimeout", o.RemoteTimeout, defaultRemoteTimeout},
		{"DisconnectedTTL", o.DisconnectedTTL, defaultDisconnectedTTL},
	} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("cache: Options.%s = %v: must be >= 0 (0 means %v)", f.name, f.value, f.zero))
		}
	}
	if o.MaxEntries < 0 {
		errs = append(errs, fmt.Errorf("cache: Options.MaxEntries = %d: must be >= 0 (0 means %d)", o.MaxEntries, defaultMaxEntries))
	}
	if o.MaxValueSize < 0 {
		errs = append(errs, fmt.Errorf("cache: Options.MaxValueSize = %d: must be >= 0 (0 means %d)", o.MaxValueSize, defaultMaxValueSize))
	}
	if math.IsNaN(o.EarlyRefresh) || math.IsInf(o.EarlyRefresh, 0) {
		errs = append(errs, fmt.Errorf("cache: Options.EarlyRefresh = %v: must be a number (0 means 1)", o.EarlyRefresh))
	}
	if o.SoftTimeout > 0 && o.StaleIfError == 0 && o.StaleWhileRevalidate == 0 {
		errs = append(errs, fmt.Errorf("cache: Options.SoftTimeout = %v: has no effect without StaleIfError", o.SoftTimeout))
	}
	if o.NegativeTTL > 0 && o.NotFound == nil && o.LoadMany == nil {
		errs = append(errs, fmt.Errorf("cache: Options.NegativeTTL = %v: has no effect without NotFound", o.NegativeTTL))
	}
	if o.Key == nil {
		if err := encodable[K](); err != nil {
			errs = append(errs, fmt.Errorf("cache: Options.Key is nil: %w", err))
		}
	}
	return errors.Join(errs...)
}

// fill puts the defaults in.
func (o *Options[K, V]) fill() {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&o.TTL, defaultTTL)
	set(&o.LoadTimeout, defaultLoadTimeout)
	set(&o.RemoteTimeout, defaultRemoteTimeout)
	set(&o.DisconnectedTTL, defaultDisconnectedTTL)
	if o.NegativeTTL == 0 {
		o.NegativeTTL = min(defaultNegativeTTL, o.TTL)
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = defaultMaxEntries
	}
	if o.MaxValueSize == 0 {
		o.MaxValueSize = defaultMaxValueSize
	}
	if o.EarlyRefresh == 0 {
		o.EarlyRefresh = 1
	}
	if o.Codec == nil {
		o.Codec = jsonCodec{}
	}
	if o.Key == nil {
		o.Key = encodeKey[K]
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

func validName(s string) bool {
	if s == "" || len(s) > 40 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
