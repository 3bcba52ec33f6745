package redislimit

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead/fairlead/ratelimit"
	"github.com/fairlead/fairlead/scale/redisconn"
)

//go:embed take.lua
var takeSource string

var takeScript = redisconn.NewScript(takeSource)

// Store keeps limits in Redis. It is safe for concurrent use.
type Store struct {
	client *redisconn.Client
	skew   time.Duration // of this process's clock; for tests
}

var _ ratelimit.Store = (*Store)(nil)

// New returns a Store on client. It does not talk to Redis and cannot fail; ratelimit.New reports a nil client.
func New(client *redisconn.Client) *Store { return &Store{client: client} }

// Check implements the optional part of ratelimit.Store.
func (s *Store) Check() error {
	if s == nil || s.client == nil {
		return errors.New("redislimit.New: client is nil")
	}
	return nil
}

// Supports implements the optional part of ratelimit.Store: Redis counts everything.
func (s *Store) Supports(ratelimit.Rule) bool { return true }

// Take implements ratelimit.Store: one run of one script.
func (s *Store) Take(ctx context.Context, ask ratelimit.Ask) (ratelimit.Decision, error) {
	reply, err := s.run(ctx, ask, ask.Cost, max(ask.Cost, ask.Most))
	if err != nil {
		return ratelimit.Decision{}, err
	}
	numbers := make([]int64, 2*len(ask.Rules))
	levels, waits := numbers[:len(ask.Rules)], numbers[len(ask.Rules):]
	for i := range ask.Rules {
		levels[i], waits[i] = reply[2+2*i], reply[3+2*i]
	}
	d := ask.Decide(int(reply[0]), levels, waits)
	d.At = reply[1]
	return d, nil
}

// Return implements ratelimit.Store.
func (s *Store) Return(ctx context.Context, ask ratelimit.Ask) error {
	_, err := s.run(ctx, ask, -ask.Cost, 0)
	return err
}

func (s *Store) run(ctx context.Context, ask ratelimit.Ask, cost, most int) ([]int64, error) {
	keys := make([]string, 1, 2)
	keys[0] = redisKey(ask.Name, ask.Key)
	for _, r := range ask.Rules {
		if r.TTL != 0 {
			keys = append(keys, keys[0]+":held")
		}
	}
	// Which unit of a calendar it is, Redis's clock decides; this process's only chooses which three are offered. Where they do not
	// have Redis's time in them, its clock is wrong by a unit, and it is told the right time.
	for now, again := time.Now().Add(s.skew), false; ; again = true {
		args := make([]any, 0, 4+6*len(ask.Rules))
		args = append(args, cost, most, ask.ID, ask.At)
		for _, r := range ask.Rules {
			args = appendRule(args, r, now)
		}
		reply, err := s.client.Run(ctx, takeScript, keys, args...).Int64Slice()
		switch {
		case err != nil:
			return nil, err
		case len(reply) == 2 && reply[0] == -1 && !again:
			now = time.UnixMicro(reply[1])
		case len(reply) != 2+2*len(ask.Rules):
			return nil, fmt.Errorf("redislimit: script answered %d numbers for %d rules", len(reply), len(ask.Rules))
		default:
			return reply, nil
		}
	}
}

func appendRule(args []any, r ratelimit.Rule, now time.Time) []any {
	switch {
	case r.Unit != 0:
		start, end := r.Window(now)
		before, _ := r.Window(start.Add(-1))
		_, after := r.Window(end)
		return append(args, "c", r.N, before.UnixMicro(), start.UnixMicro(), end.UnixMicro(), after.UnixMicro())
	case r.TTL != 0:
		return append(args, "f", r.N, r.TTL.Microseconds(), 0, 0, 0)
	}
	leak, unit := r.Units()
	return append(args, "r", leak, unit, int64(r.Burst)*unit, 0, 0)
}

// redisKey hashes what a client may have invented: a key in Redis has a bounded length and reveals no token, address or user. The
// braces keep the permits in flight in the same slot of a Cluster.
func redisKey(name, key string) string {
	sum := sha256.Sum256([]byte(key))
	return "fairlead:limit:{" + name + ":" + base64.RawURLEncoding.EncodeToString(sum[:18]) + "}"
}

// Warning implements the optional part of ratelimit.Store. It says so when Redis may evict keys: each one evicted grants its
// client a fresh burst.
func (s *Store) Warning(ctx context.Context) string {
	info, err := s.client.Redis().Info(ctx, "memory").Result()
	if err != nil || field(info, "maxmemory") == "0" {
		return "" // not permitted to ask, or nothing to run out of
	}
	if policy := field(info, "maxmemory_policy"); policy != "" && policy != "noeviction" {
		return "Redis evicts keys when memory runs out (maxmemory-policy " + policy + "), and a key evicted early grants a fresh burst; use noeviction for exact limits"
	}
	return ""
}

func field(info, name string) string {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
