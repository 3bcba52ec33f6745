package redislimit

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/fairlead/fairlead/ratelimit"
	"github.com/fairlead/fairlead/scale/redisconn"
)

//go:embed take.lua
var takeSource string

var takeScript = redisconn.NewScript(takeSource)

// Store keeps limits in Redis. It is safe for concurrent use.
type Store struct{ client *redisconn.Client }

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

// Take implements ratelimit.Store: one run of one script on one key.
func (s *Store) Take(ctx context.Context, ask ratelimit.Ask) (ratelimit.Decision, error) {
	args := make([]any, 0, 4*len(ask.Rules))
	for _, r := range ask.Rules {
		leak, unit := r.Units()
		args = append(args, leak, unit, int64(r.Burst)*unit, int64(ask.Cost)*unit)
	}
	reply, err := s.client.Run(ctx, takeScript, []string{redisKey(ask.Name, ask.Key)}, args...).Int64Slice()
	if err != nil {
		return ratelimit.Decision{}, err
	}
	if len(reply) != 1+len(ask.Rules) {
		return ratelimit.Decision{}, fmt.Errorf("redislimit: script answered %d numbers for %d rules", len(reply), len(ask.Rules))
	}
	return ask.Decide(reply[0] == 1, reply[1:]), nil
}

// redisKey hashes what a client may have invented: a key in Redis has a bounded length and reveals no token, address or user.
func redisKey(name, key string) string {
	sum := sha256.Sum256([]byte(key))
	return "fairlead:limit:" + name + ":" + base64.RawURLEncoding.EncodeToString(sum[:18])
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
