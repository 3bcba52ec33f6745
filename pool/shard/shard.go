// Package shard spreads keys over several PostgreSQL systems, each with a [pool.Pool] of its own.
//
//	db, err := shard.New[int64]([]*pool.Pool{first, second}, shard.Options{})
//	err = db.For(customerID).QueryRow(ctx, "select …")       // all of a customer is on one shard
//	err = db.Each(ctx, 4, func(ctx context.Context, i int, p *pool.Pool) error { … })
//
// # Where a key is
//
// A key's bucket is the first four bytes of the SHA-256 of its bytes, as a big-endian number, modulo the number of buckets;
// the bucket table says which shard has it. The bytes of an integer are its eight in big-endian order, those of a string and
// of a [16]byte are itself. So anyone can say where a key is, PostgreSQL too:
//
//	select ('x' || left(encode(sha256(int8send($1)), 'hex'), 8))::bit(32)::bigint % 4096   -- convert_to($1, 'UTF8') for text, uuid_send($1)
//
// The table is fixed when the pool is made, and the hash will not change. Every process has to have the same table and the
// same order of shards: two that differ would write one key to two shards. Options.Buckets is therefore best kept with the
// addresses of the shards, in configuration that all processes share. Nothing moves rows: a bucket that is given to another
// shard has to be copied first.
//
// # What it does not
//
// There are no transactions, joins, unique constraints or foreign keys across shards. A transaction is begun on one shard,
// so what belongs together needs one key (the customer's, not the order's); [Pool.Together] says when it does not. Each shard
// has its own replicas, failover and positions: one shard without a primary does not stop the others, and a scope of package
// causal holds a position for each of up to 16.
package shard

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/fairlead/fairlead/pool"
)

// Key is what may be a key: an integer, a string, or the bytes of a UUID.
type Key interface {
	~int64 | ~string | ~[16]byte
}

// Options configure a [Pool]. The zero value works.
type Options struct {
	// Buckets is the table: bucket i is on shard Buckets[i]. At most 65,536, and every shard has one at least. nil means
	// 4,096 in equal runs, the first to shard 0: with another number of shards that is another table, so write it down
	// before a shard is added.
	Buckets []int
}

const (
	defaultBuckets = 4096
	maxBuckets     = 1 << 16 // 32 bits of hash spread evenly over them
)

// Pool finds the shard of a key. It is safe for concurrent use and owns nothing: close the shards themselves.
type Pool[K Key] struct {
	shards  []*pool.Pool
	buckets []int
}

// New returns a pool over shards, which are known by their place: the order is part of the table.
func New[K Key](shards []*pool.Pool, options Options) (*Pool[K], error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("shard: "+format, args...)) }
	if len(shards) == 0 {
		bad("there are no shards: must be at least one")
	}
	for i, s := range shards {
		if s == nil {
			bad("shards[%d] is nil", i)
		} else if first := slices.Index(shards, s); first < i {
			bad("shards[%d] is shards[%d] again", i, first)
		}
	}
	buckets := slices.Clone(options.Buckets)
	switch n := len(buckets); {
	case options.Buckets == nil:
		buckets = make([]int, defaultBuckets)
		for i := range buckets {
			buckets[i] = i * len(shards) / len(buckets)
		}
		if len(shards) > defaultBuckets {
			bad("%d shards for %d buckets: Options.Buckets must name more", len(shards), defaultBuckets)
		}
	case n == 0 || n > maxBuckets:
		bad("Options.Buckets has %d buckets: must have 1 to %d (nil means %d)", n, maxBuckets, defaultBuckets)
	default:
		for i, s := range buckets {
			if s < 0 || s >= len(shards) {
				bad("Options.Buckets[%d] = %d: must be a shard, 0 to %d", i, s, len(shards)-1)
			}
		}
		for s := range shards {
			if !slices.Contains(buckets, s) {
				bad("Options.Buckets gives shard %d no bucket", s)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &Pool[K]{shards: slices.Clone(shards), buckets: buckets}, nil
}

// Bucket returns the bucket of key.
func (p *Pool[K]) Bucket(key K) int {
	var sum [sha256.Size]byte
	switch k := any(key).(type) {
	case int64:
		sum = sumInt(k)
	case string:
		sum = sha256.Sum256([]byte(k))
	case [16]byte:
		sum = sha256.Sum256(k[:])
	default:
		sum = sumNamed(key)
	}
	return int(binary.BigEndian.Uint32(sum[:4]) % uint32(len(p.buckets)))
}

func sumInt(k int64) [sha256.Size]byte {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(k))
	return sha256.Sum256(b[:])
}

// For returns the pool of the shard that has key.
func (p *Pool[K]) For(key K) *pool.Pool { return p.shards[p.buckets[p.Bucket(key)]] }

// Together returns the pool of the shard that has all of keys, for a transaction over them. If they are on several, it is
// [ErrAcrossShards], in words: there is no transaction that could span them.
func (p *Pool[K]) Together(keys ...K) (*pool.Pool, error) {
	if len(keys) == 0 {
		return nil, fmt.Errorf("shard: Together needs a key")
	}
	first := p.buckets[p.Bucket(keys[0])]
	for i, k := range keys[1:] {
		if s := p.buckets[p.Bucket(k)]; s != first {
			return nil, fmt.Errorf("%w: key 0 is on shard %d and key %d on shard %d: no transaction can span them; give what belongs "+
				"together one key, or write to each by itself so that it may be repeated", ErrAcrossShards, first, i+1, s)
		}
	}
	return p.shards[first], nil
}

// ErrAcrossShards says that keys of one transaction are on several shards.
var ErrAcrossShards = errors.New("shard: across shards")

// Each calls fn for every shard with its place and pool, for at most limit at the same time (0: all), and waits for all. A
// shard's failure does not stop the others: Each then returns a [PartialError] that says which have failed, and what fn made
// of the rest stands. Shards whose turn has not come when ctx ends fail with its error. fn is called concurrently; writing to
// element i of a slice made before needs no lock.
func (p *Pool[K]) Each(ctx context.Context, limit int, fn func(ctx context.Context, i int, db *pool.Pool) error) error {
	if limit < 0 {
		return fmt.Errorf("shard: Each: limit = %d: must be >= 0 (0 means all at once)", limit)
	}
	if limit == 0 {
		limit = len(p.shards)
	}
	errs := make([]error, len(p.shards))
	turns := make(chan struct{}, limit)
	var wg sync.WaitGroup
	for i, db := range p.shards {
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
		}
		if errs[i] = ctx.Err(); errs[i] != nil {
			continue // the turns do not matter any more
		}
		wg.Go(func() {
			defer func() { <-turns }()
			defer func() {
				if r := recover(); r != nil {
					errs[i] = fmt.Errorf("shard: panic: %v", r)
				}
			}()
			errs[i] = fn(ctx, i, db)
		})
	}
	wg.Wait()
	failed := make(map[int]error)
	for i, err := range errs {
		if err != nil {
			failed[i] = err
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &PartialError{Failed: failed, Shards: len(p.shards)}
}

// PartialError says which shards have failed, and why.
type PartialError struct {
	Failed map[int]error // by the shard's place
	Shards int           // how many there are
}

func (e *PartialError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "shard: %d of %d have failed", len(e.Failed), e.Shards)
	for i := range e.Shards {
		if err := e.Failed[i]; err != nil {
			fmt.Fprintf(&b, "; %d: %v", i, err)
		}
	}
	return b.String()
}

// Unwrap returns the errors of the shards, so that errors.Is and errors.As find them.
func (e *PartialError) Unwrap() []error {
	var all []error
	for i := range e.Shards {
		if err := e.Failed[i]; err != nil {
			all = append(all, err)
		}
	}
	return all
}
