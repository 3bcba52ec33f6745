// Package rediscache is the tier that the processes of a service share: a cache.Remote on Redis 7 or later, a single server,
// a Sentinel group or a Cluster.
//
//	rdb, err := redisconn.Open(os.Getenv("REDIS_URL"))
//	products, err := cache.New("products", load, cache.Options[int64, Product]{Remote: rediscache.New(rdb)})
//
// # What is in Redis
//
// For the key 42 of the cache "products": cache:{products:42} is the record, the 16 bytes of its ID and what the cache put
// in; …:lease is the lease, while a process loads; …:token the causal token of its last invalidation. cache:{products} is the
// clock, a hash, which also has the stamp of the last InvalidateAll; cache:{products}:tag:blue is the stamp of a tag,
// cache:{products}:token the causal token of the invalidations by tag, and cache:{products}:bus the channel on which invalidations
// are published. Everything but the clock expires by itself. An eviction policy may drop any of it: a lost record is a miss, a
// lost lease a refused fill, a lost stamp a miss for every value with the tag. A lost clock is a new incarnation, and forgets an
// InvalidateAll of more than a minute before. A lost token means that until the replicas have caught up a load may read what was before, so if Redis is
// short of memory let it evict by volatile-ttl.
//
// Each change is one script, so that it happens whole or not. Invalidations of several keys are one script too, except on
// Cluster, where the keys go first, each by itself, and then the clock.
//
// # Listening
//
// A listener has a connection of its own. It considers it lost at any error, at any subscription it did not ask for, and when
// the beacon that it sends itself each second, by the way that commands go, has not come for 3 s: a connection that was cut
// half-way gives no error, and neither does a primary that was replaced. It then says so and connects again. A clock remembers
// which server counted it, so a restarted or promoted one starts a new incarnation. On Cluster the clock also remembers the run ids
// of all primaries, which every listener reports with its beacon: one that is new may stand for one that lost what it had.
package rediscache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/cache"
	"github.com/fairlead/fairlead/scale/redisconn"
)

// Remote is a cache.Remote on Redis. It has nothing to close: the client is the application's.
type Remote struct {
	client  *redisconn.Client
	cluster bool
}

var _ cache.Remote = (*Remote)(nil)

// New returns a Remote that uses client. One serves any number of caches. It does not dial.
func New(client *redisconn.Client) *Remote {
	_, cluster := client.Redis().(*redis.ClusterClient)
	return &Remote{client: client, cluster: cluster}
}

// idSize is the length of a lease and of a record's ID.
const idSize = 16

func recordKey(space, key string) string { return "cache:{" + space + ":" + key + "}" }
func leaseKey(space, key string) string  { return recordKey(space, key) + ":lease" }
func tokenKey(space, key string) string  { return recordKey(space, key) + ":token" }
func clockKey(space string) string       { return "cache:{" + space + "}" }
func stampKey(space, tag string) string  { return clockKey(space) + ":tag:" + tag }
func spaceTokenKey(space string) string  { return clockKey(space) + ":token" }
func busChannel(space string) string     { return clockKey(space) + ":bus" }

// Get reads records in one round trip, and the stamps of their tags in a second; those that a lease is asked for, each with a
// script.
func (r *Remote) Get(ctx context.Context, space string, asks []cache.Ask) ([]cache.Record, error) {
	records := make([]cache.Record, len(asks))
	cmds := make([]redis.Cmder, 0, 2*len(asks))
	var all *redis.StringCmd
	err := r.client.Pipeline(ctx, func(p redis.Pipeliner) {
		for _, a := range asks {
			key := recordKey(space, a.Key)
			if a.Lease == "" {
				// What is left of the record is asked first: should it be replaced in between, the new one looks older than
				// it is, and not the old one younger.
				cmds = append(cmds, p.PTTL(ctx, key), p.Get(ctx, key))
				continue
			}
			keys := []string{key, leaseKey(space, a.Key), tokenKey(space, a.Key)}
			renew := 0
			if a.Renew {
				renew = 1
			}
			cmds = append(cmds, lease.Queue(ctx, p, keys, a.Lease, milliseconds(a.Hold), a.Instead, renew))
		}
		all = p.HGet(ctx, clockKey(space), "all")
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return nil, err
	}
	next := func() redis.Cmder {
		cmd := cmds[0]
		cmds = cmds[1:]
		return cmd
	}
	for i, a := range asks {
		if a.Lease == "" {
			left, err := next().(*redis.DurationCmd).Result()
			if err != nil {
				return nil, err
			}
			data, err := next().(*redis.StringCmd).Result()
			if err != nil && err != redis.Nil {
				return nil, err
			}
			records[i] = record(data, left)
			continue
		}
		answer, err := next().(*redis.Cmd).Slice()
		if err != nil {
			return nil, err
		}
		if len(answer) != 4 {
			return nil, fmt.Errorf("rediscache: the lease script answered %v", answer)
		}
		data, _ := answer[0].(string)
		left, _ := answer[1].(int64)
		leased, _ := answer[2].(int64)
		token, _ := answer[3].(string)
		records[i] = record(data, time.Duration(left)*time.Millisecond)
		records[i].Leased, records[i].Token = leased == 1, token
	}
	stamp, err := all.Result()
	if err != nil && err != redis.Nil {
		return nil, err
	}
	return records, r.addStamps(ctx, space, records, stamp)
}

// addStamps finds out the stamps of records, those of tags in a second round trip.
func (r *Remote) addStamps(ctx context.Context, space string, records []cache.Record, all string) error {
	var keys []string
	for i := range records {
		for _, tag := range records[i].Tags {
			keys = append(keys, stampKey(space, tag))
		}
		if records[i].ID != "" {
			records[i].Stamp = max(records[i].Stamp, all)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	var found *redis.SliceCmd
	err := r.client.Pipeline(ctx, func(p redis.Pipeliner) { found = p.MGet(ctx, keys...) })
	if err != nil {
		return err
	}
	stamps := found.Val()
	if len(stamps) != len(keys) {
		return fmt.Errorf("rediscache: %d stamps for %d tags", len(stamps), len(keys))
	}
	for i := range records {
		for range records[i].Tags {
			stamp, ok := stamps[0].(string)
			if !ok {
				stamp = noReading
			}
			records[i].Stamp, stamps = max(records[i].Stamp, stamp), stamps[1:]
		}
	}
	return nil
}

// Put stores each fill with a script, all in one round trip.
func (r *Remote) Put(ctx context.Context, space string, fills []cache.Fill) ([]bool, error) {
	cmds := make([]*redis.Cmd, len(fills))
	err := r.client.Pipeline(ctx, func(p redis.Pipeliner) {
		r.queueStamps(ctx, p, space, fills)
		for i, f := range fills {
			data := ""
			if f.Data != nil {
				data = seal(f)
			}
			keys := []string{recordKey(space, f.Key), leaseKey(space, f.Key)}
			cmds[i] = fill.Queue(ctx, p, keys, f.Lease, data, milliseconds(f.TTL))
		}
	})
	if err != nil {
		return nil, err
	}
	stored := make([]bool, len(fills))
	for i, cmd := range cmds {
		n, err := cmd.Int64()
		if err != nil {
			return nil, err
		}
		stored[i] = n == 1
	}
	return stored, nil
}

// queueStamps sees to it that the fills' tags have stamps. A stamp that lasts longer than need be, or is lower, does no harm
// to the others.
func (r *Remote) queueStamps(ctx context.Context, p redis.Pipeliner, space string, fills []cache.Fill) {
	var keys []string
	heard, ttl := noReading, time.Duration(0)
	for _, f := range fills {
		if f.Data == nil || len(f.Tags) == 0 {
			continue
		}
		for _, tag := range f.Tags {
			keys = append(keys, stampKey(space, tag))
		}
		heard, ttl = min(heard, f.Heard), max(ttl, f.TTL)
	}
	if len(keys) > 0 {
		stamp.Queue(ctx, p, keys, heard, milliseconds(ttl+time.Minute))
	}
}

// Invalidate deletes the keys, advances the clock, stamps the tags and publishes.
func (r *Remote) Invalidate(ctx context.Context, space string, inv cache.Invalidation) (cache.Event, error) {
	ttl := milliseconds(inv.TokenTTL)
	keys := []string{clockKey(space), spaceTokenKey(space)}
	dropped := 0
	if r.cluster && len(inv.Keys) > 0 {
		err := r.client.Pipeline(ctx, func(p redis.Pipeliner) {
			for _, key := range inv.Keys {
				drop.Queue(ctx, p, dropKeys(space, key), inv.Token, ttl)
			}
		})
		if err != nil {
			return cache.Event{}, err
		}
	}
	if !r.cluster {
		for _, key := range inv.Keys {
			keys = append(keys, dropKeys(space, key)...)
		}
		dropped = len(inv.Keys)
	}
	for _, tag := range inv.Tags {
		keys = append(keys, stampKey(space, tag))
	}
	all := 0
	if inv.All {
		all = 1
	}
	ev, err := reading(r.client.Run(ctx, invalidate, keys,
		busChannel(space), encode(inv), inv.Token, ttl, milliseconds(inv.StampTTL), all, dropped))
	ev.Invalidation = inv
	return ev, err
}

func dropKeys(space, key string) []string {
	return []string{recordKey(space, key), leaseKey(space, key), tokenKey(space, key)}
}

// reading is a script's answer that reports the clock.
func reading(cmd *redis.Cmd) (cache.Event, error) {
	answer, err := cmd.Slice()
	if err != nil {
		return cache.Event{}, err
	}
	if len(answer) >= 2 {
		incarnation, _ := answer[0].(string)
		n, ok := answer[1].(int64)
		if ok && incarnation != "" {
			ev := cache.Event{Connected: true, Incarnation: incarnation, N: uint64(n)}
			if len(answer) > 2 {
				ev.Invalidation.Token, _ = answer[2].(string)
			}
			return ev, nil
		}
	}
	return cache.Event{}, fmt.Errorf("rediscache: a clock script answered %v", answer)
}

// milliseconds of a duration, at least 1: Redis takes no shorter.
func milliseconds(d time.Duration) int64 { return max(d.Milliseconds(), 1) }
