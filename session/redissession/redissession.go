// Package redissession keeps sessions in Redis 7 or later: one server, Sentinel or Cluster.
//
// A session is one string, {tag}:s:<digest>; a user's sessions, their index {tag}:u and the user's fence {tag}:f share a
// hash tag and so a slot, which makes a revocation one script. Every change is a script that is safe to run again. Times are
// those of Redis.
//
// What Redis loses is lost: an asynchronous failover, or a restart from a snapshot, can take back an acknowledged write, and
// with it a logout; with Options.Confirm replicas acknowledge changes. Run it with maxmemory-policy noeviction, or
// volatile-ttl: with other policies a full Redis logs users out, at random. Store.Evictions counts what was dropped.
package redissession

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/fairlead/fairlead/scale/redisconn"
	"github.com/fairlead/fairlead/session"
)

// Options of a Store.
type Options struct {
	// Prefix goes before every key, to share one Redis among applications. Default none. It may not contain "{": the user's
	// part of the key decides the slot.
	Prefix string
	// Confirm is how many replicas must have a change before it counts as done: WAIT stands behind each script that changes
	// something, on the same connection, and a change that is not confirmed in time is session.ErrUnavailable, or
	// session.ErrOutcomeUnknown. It costs the round trip to a replica. A failover that promotes one of those that confirmed
	// takes nothing back; Redis does not promise to choose it. While a slot of a Cluster moves, its keys that have moved
	// cannot be changed. 0 means none: what the primary has is done.
	Confirm int
}

// Store is a session.Store and a session.UserIndex. It is safe for concurrent use.
type Store struct {
	rdb     *redisconn.Client
	prefix  string
	confirm int
}

// New returns a store on the client, which stays the caller's to close. Bad options are reported by session.New.
func New(rdb *redisconn.Client, o Options) *Store { return &Store{rdb, o.Prefix, o.Confirm} }

// Validate reports every option that does not fit; session.New asks.
func (s *Store) Validate() error {
	var errs []error
	if s.rdb == nil {
		errs = append(errs, errors.New("redissession: client is nil: must come from redisconn.Open or redisconn.New"))
	}
	if strings.Contains(s.prefix, "{") {
		errs = append(errs, fmt.Errorf("redissession: Options.Prefix = %q: must not contain {", s.prefix))
	}
	if s.confirm < 0 {
		errs = append(errs, fmt.Errorf("redissession: Options.Confirm = %d: must be >= 0 (0 means none)", s.confirm))
	}
	return errors.Join(errs...)
}

var (
	_ session.Store     = (*Store)(nil)
	_ session.UserIndex = (*Store)(nil)
)

func (s *Store) base(tag string) string       { return s.prefix + "{" + tag + "}:" }
func (s *Store) key(tag, id string) string    { return s.base(tag) + "s:" + id }
func (s *Store) keys(tag, id string) []string { return []string{s.key(tag, id), s.base(tag) + "u"} }
func (s *Store) userKeys(tag string) []string { return []string{s.base(tag) + "f", s.base(tag) + "u"} }

// The stored string is a head of fixed width, which the scripts can read, and the value:
//
//	state 1: - ordinary, d expires at its deadline, p pinned
//	user  1: u in the user's index, - not
//	version 16 digits, deadline 16 digits (milliseconds, 0 none)
const headLen = 34

const loginTime = 15 * time.Minute

// Load reads the record and what is left of its life in one round trip.
func (s *Store) Load(ctx context.Context, tag, id string) (session.Record, error) {
	var text *redis.StringCmd
	var left *redis.DurationCmd
	key := s.key(tag, id)
	err := s.rdb.Pipeline(ctx, func(p redis.Pipeliner) {
		text = p.Get(ctx, key)
		left = p.PTTL(ctx, key)
	})
	if errors.Is(text.Err(), redis.Nil) {
		return session.Record{}, nil
	}
	if err != nil {
		return session.Record{}, failure(err)
	}
	if left.Val() == -2 { // it expired between the two
		return session.Record{}, nil
	}
	v := text.Val()
	if len(v) < headLen {
		return session.Record{}, errDamaged
	}
	return parse(tag, id, v[:headLen], v[headLen:], left.Val().Milliseconds())
}

// Create creates the record, and its entry in the user's index, in one script.
func (s *Store) Create(ctx context.Context, r session.Record) (session.Record, bool, error) {
	args, ok := s.making(r)
	if !ok {
		return session.Record{}, false, session.ErrRevoked
	}
	return s.current(r, s.run(ctx, create, append(s.keys(r.Tag, r.ID), s.base(r.Tag)+"f"), args...))
}

// making is what the scripts that create need to know of r; false if its fence is none.
func (s *Store) making(r session.Record) (args []any, ok bool) {
	user, fence, asked := "-", "", "0"
	if r.User {
		user = "u"
	}
	if r.Fence != "" {
		if fence, asked, ok = cut(r.Fence); !ok {
			return nil, false
		}
	}
	deadline := int64(0)
	if !r.Deadline.IsZero() {
		deadline = r.Deadline.UnixMilli()
	}
	return []any{r.Value, r.Left.Milliseconds(), r.Life.Milliseconds(), deadline, user, fence, asked, loginTime.Milliseconds(), r.ID,
		r.Limit, s.key(r.Tag, "")}, true
}

// Move is one script.
func (s *Store) Move(ctx context.Context, old, next session.Record) (session.Record, bool, error) {
	args, ok := s.making(next)
	if !ok {
		return session.Record{}, false, session.ErrRevoked
	}
	keys := append(s.keys(old.Tag, old.ID), s.base(old.Tag)+"f", s.key(next.Tag, next.ID))
	args = append(args, version(old.Version), old.Value, old.Left.Milliseconds(), old.ID)
	cmd := s.run(ctx, move, keys, args...)
	if answer, _ := cmd.Val().([]any); len(answer) > 0 && answer[0] != int64(1) {
		return s.current(old, cmd)
	}
	return s.current(next, cmd)
}

func version(n int64) string { return fmt.Sprintf("%016d", n) }

// CompareAndSwap is one script.
func (s *Store) CompareAndSwap(ctx context.Context, r session.Record) (session.Record, bool, error) {
	pinned := "0"
	if r.Pinned {
		pinned = "1"
	}
	return s.current(r, s.run(ctx, swap, s.keys(r.Tag, r.ID), version(r.Version), r.Value, r.Left.Milliseconds(), pinned, r.ID))
}

// current reads what the scripts that change answer: 1 for done, and the record without its value, or 0 and the one that is
// there, or 2 for a fence that is not valid.
func (s *Store) current(r session.Record, cmd *redis.Cmd) (session.Record, bool, error) {
	answer, err := cmd.Slice()
	switch {
	case err != nil:
		return session.Record{}, false, failure(err)
	case len(answer) == 1 && answer[0] == int64(2):
		return session.Record{}, false, session.ErrRevoked
	case len(answer) < 2:
		return session.Record{}, false, nil
	}
	now, err := show(r.Tag, r.ID, answer[1])
	if answer[0] != int64(1) || err != nil {
		return now, false, err
	}
	now.Value = r.Value
	return now, true, nil
}

// Delete is one script.
func (s *Store) Delete(ctx context.Context, tag, id string) (session.Record, error) {
	answer, err := s.run(ctx, remove, s.keys(tag, id), id).Slice()
	if err != nil {
		return session.Record{}, failure(err)
	}
	if len(answer) < 2 {
		return session.Record{}, nil
	}
	return show(tag, id, answer[1])
}

// Touch is one pipeline, on Cluster one a server.
func (s *Store) Touch(ctx context.Context, records []session.Record) error {
	if len(records) == 0 {
		return nil
	}
	return failure(s.rdb.Pipeline(ctx, func(p redis.Pipeliner) {
		for _, r := range records {
			touch.Queue(ctx, p, []string{s.key(r.Tag, r.ID)}, r.Left.Milliseconds())
		}
	}))
}

// Fence returns the number of the user's last revocation and the time.
func (s *Store) Fence(ctx context.Context, tag string) (string, error) {
	answer, err := s.rdb.Run(ctx, showFence.Script, s.userKeys(tag)).StringSlice()
	if err != nil {
		return "", failure(err)
	}
	return answer[0] + "@" + answer[1], nil
}

// Revoke is one script.
func (s *Store) Revoke(ctx context.Context, tag string, except []string) (int, error) {
	args := []any{(2 * loginTime).Milliseconds(), s.key(tag, "")}
	for _, id := range except {
		args = append(args, id)
	}
	n, err := s.run(ctx, revoke, s.userKeys(tag), args...).Int()
	return n, failure(err)
}

// List is one script.
func (s *Store) List(ctx context.Context, tag string) ([]session.Record, error) {
	answer, err := s.rdb.Run(ctx, list.Script, s.userKeys(tag), s.key(tag, "")).Slice()
	if err != nil {
		return nil, failure(err)
	}
	var all []session.Record
	for _, a := range answer {
		parts, _ := a.([]any)
		if len(parts) != 4 {
			return nil, errDamaged
		}
		id, _ := parts[0].(string)
		r, err := show(tag, id, parts[1:])
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

var errDamaged = errors.New("redissession: a key holds something else than a session")

func show(tag, id string, answer any) (session.Record, error) {
	parts, _ := answer.([]any)
	if len(parts) != 3 {
		return session.Record{}, errDamaged
	}
	head, ok1 := parts[0].(string)
	value, ok2 := parts[1].(string)
	left, ok3 := parts[2].(int64)
	if !ok1 || !ok2 || !ok3 {
		return session.Record{}, errDamaged
	}
	return parse(tag, id, head, value, left)
}

func parse(tag, id, head, value string, left int64) (session.Record, error) {
	r := session.Record{Tag: tag, ID: id}
	if len(head) != headLen {
		return r, errDamaged
	}
	version, err1 := strconv.ParseInt(head[2:18], 10, 64)
	deadline, err2 := strconv.ParseInt(head[18:34], 10, 64)
	if err1 != nil || err2 != nil {
		return r, errDamaged
	}
	r.Version, r.User, r.Pinned, r.Final = version, head[1] == 'u', head[0] == 'p', head[0] != '-'
	r.Value = []byte(value)
	if left > 0 {
		r.Left = time.Duration(left) * time.Millisecond
	}
	if deadline > 0 {
		r.Deadline = time.UnixMilli(deadline)
	}
	return r, nil
}

func cut(fence string) (value, asked string, ok bool) {
	for i := range len(fence) {
		if fence[i] == '@' {
			value, asked = fence[:i], fence[i+1:]
			_, err1 := strconv.ParseInt(value, 10, 64)
			_, err2 := strconv.ParseInt(asked, 10, 64)
			return value, asked, err1 == nil && err2 == nil
		}
	}
	return "", "", false
}

// failure tells what may have been done from what was refused.
func failure(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, redisconn.ErrUnavailable) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", session.ErrUnavailable, err)
	}
	return fmt.Errorf("redissession: %w", err)
}
