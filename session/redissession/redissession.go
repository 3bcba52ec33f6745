// Package redissession keeps sessions in Redis 7 or later: one server, Sentinel or Cluster.
//
// A session is one string, {tag}:s:<digest>; a user's sessions, their index {tag}:u and the user's fence {tag}:f share a
// hash tag and so a slot, which makes a revocation one script. Every change is a script that is safe to run again. Times are
// those of Redis.
//
// What Redis loses is lost: an asynchronous failover, or a restart from a snapshot, can take back an acknowledged write, and
// with it a logout. Run it with maxmemory-policy noeviction, or volatile-ttl: with other policies a full Redis logs users
// out, at random.
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
}

// Store is a session.Store and a session.UserIndex. It is safe for concurrent use.
type Store struct {
	rdb    *redisconn.Client
	prefix string
}

// New returns a store on the client, which stays the caller's to close. Bad options are reported by session.New.
func New(rdb *redisconn.Client, o Options) *Store { return &Store{rdb, o.Prefix} }

// Validate reports every option that does not fit; session.New asks.
func (s *Store) Validate() error {
	var errs []error
	if s.rdb == nil {
		errs = append(errs, errors.New("redissession: client is nil: must come from redisconn.Open or redisconn.New"))
	}
	if strings.Contains(s.prefix, "{") {
		errs = append(errs, fmt.Errorf("redissession: Options.Prefix = %q: must not contain {", s.prefix))
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

// common begins the scripts: the clock, and how a record's end comes about.
const common = `
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function life(left, deadline)
  if deadline > 0 and (left <= 0 or now + left >= deadline) then return deadline - now, 'd' end
  return left, '-'
end
local function put(key, state, user, version, deadline, value, left)
  local text = state .. user .. string.format('%016d%016d', version, deadline) .. value
  if left > 0 then redis.call('SET', key, text, 'PX', left) else redis.call('SET', key, text) end
end
local function show(text, left) return {string.sub(text, 1, 34), string.sub(text, 35), left} end
`

var (
	// KEYS record, index, fence. ARGV value, left, life, deadline, user, fence, time of the fence, its longest age, id.
	create = redisconn.NewScript(common + `
local found = redis.call('GET', KEYS[1])
if found then return {0, show(found, redis.call('PTTL', KEYS[1]))} end
if ARGV[6] ~= '' then
  if (redis.call('GET', KEYS[3]) or '0') ~= ARGV[6] or now - tonumber(ARGV[7]) > tonumber(ARGV[8]) then return {2} end
end
local deadline = tonumber(ARGV[4])
if deadline == 0 and tonumber(ARGV[3]) > 0 then deadline = now + tonumber(ARGV[3]) end
local left, state = life(tonumber(ARGV[2]), deadline)
if state == 'd' and left <= 0 then left = 1 end
put(KEYS[1], state, ARGV[5], 1, deadline, ARGV[1], left)
if ARGV[5] == 'u' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  local score = '+inf'
  if deadline > 0 then score = deadline end
  redis.call('ZADD', KEYS[2], score, ARGV[9])
  local last = redis.call('ZREVRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
  if last == 'inf' then redis.call('PERSIST', KEYS[2]) else redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', tonumber(last) + 1000)) end
end
return {1, {state .. ARGV[5] .. string.format('%016d%016d', 1, deadline), '', left}}
`)

	// KEYS record, index. ARGV version, value, left, pinned, id.
	swap = redisconn.NewScript(common + `
local found = redis.call('GET', KEYS[1])
if not found then return {0} end
local left = redis.call('PTTL', KEYS[1])
if string.sub(found, 1, 1) == 'p' or string.sub(found, 3, 18) ~= ARGV[1] then return {0, show(found, left)} end
local user, deadline = string.sub(found, 2, 2), tonumber(string.sub(found, 19, 34))
local longer, state = life(tonumber(ARGV[3]), deadline)
if ARGV[4] == '1' then
  state, user = 'p', '-'
  redis.call('ZREM', KEYS[2], ARGV[5])
elseif left > longer then
  longer, state = left, string.sub(found, 1, 1)
end
if longer <= 0 and deadline > 0 then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[5])
  return {0}
end
put(KEYS[1], state, user, tonumber(ARGV[1]) + 1, deadline, ARGV[2], longer)
return {1, {state .. user .. string.format('%016d%016d', tonumber(ARGV[1]) + 1, deadline), '', longer}}
`)

	// KEYS record, index. ARGV id.
	remove = redisconn.NewScript(`
local found = redis.call('GET', KEYS[1])
if not found then
  redis.call('ZREM', KEYS[2], ARGV[1])
  return {0}
end
local left = redis.call('PTTL', KEYS[1])
if string.sub(found, 1, 1) ~= 'p' then
  redis.call('DEL', KEYS[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return {0, {string.sub(found, 1, 34), string.sub(found, 35), left}}
`)

	// KEYS record. ARGV left. The record may be read in part: only its head matters.
	touch = redisconn.NewScript(common + `
local head = redis.call('GETRANGE', KEYS[1], 0, 33)
if #head < 34 or string.sub(head, 1, 1) ~= '-' then return 0 end
local left = redis.call('PTTL', KEYS[1])
local longer, state = life(tonumber(ARGV[1]), tonumber(string.sub(head, 19, 34)))
if left < 0 or longer <= left then return 0 end
if state == 'd' then redis.call('SETRANGE', KEYS[1], 0, 'd') end
redis.call('PEXPIRE', KEYS[1], longer)
return 1
`)

	// KEYS fence, index.
	showFence = redisconn.NewScript(`
local t = redis.call('TIME')
return {redis.call('GET', KEYS[1]) or '0', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))}
`)

	// KEYS fence, index. ARGV how long the fence is kept, the prefix of the user's records, ids to spare. The keys of the
	// records have the hash tag of the named ones.
	revoke = redisconn.NewScript(`
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
redis.call('SET', KEYS[1], string.format('%.0f', math.max(last + 1, now)), 'PX', ARGV[1])
local spare = {}
for i = 3, #ARGV do spare[ARGV[i]] = true end
local n = 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  if not spare[id] then
    n = n + redis.call('DEL', ARGV[2] .. id)
    redis.call('ZREM', KEYS[2], id)
  end
end
return n
`)

	// KEYS fence, index. ARGV the prefix of the user's records.
	list = redisconn.NewScript(`
local all = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local found = redis.call('GET', ARGV[1] .. id)
  if found then
    all[#all + 1] = {id, string.sub(found, 1, 34), string.sub(found, 35), redis.call('PTTL', ARGV[1] .. id)}
  end
end
return all
`)
)

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
	user, fence, asked := "-", "", "0"
	if r.User {
		user = "u"
	}
	if r.Fence != "" {
		var ok bool
		if fence, asked, ok = cut(r.Fence); !ok {
			return session.Record{}, false, session.ErrRevoked
		}
	}
	deadline := int64(0)
	if !r.Deadline.IsZero() {
		deadline = r.Deadline.UnixMilli()
	}
	answer, err := s.rdb.Run(ctx, create, append(s.keys(r.Tag, r.ID), s.base(r.Tag)+"f"),
		r.Value, r.Left.Milliseconds(), r.Life.Milliseconds(), deadline, user, fence, asked, loginTime.Milliseconds(), r.ID).Slice()
	if err != nil {
		return session.Record{}, false, failure(err)
	}
	if len(answer) == 1 {
		return session.Record{}, false, session.ErrRevoked
	}
	return s.current(r, answer)
}

// CompareAndSwap is one script.
func (s *Store) CompareAndSwap(ctx context.Context, r session.Record) (session.Record, bool, error) {
	pinned := "0"
	if r.Pinned {
		pinned = "1"
	}
	answer, err := s.rdb.Run(ctx, swap, s.keys(r.Tag, r.ID),
		fmt.Sprintf("%016d", r.Version), r.Value, r.Left.Milliseconds(), pinned, r.ID).Slice()
	if err != nil {
		return session.Record{}, false, failure(err)
	}
	return s.current(r, answer)
}

// current reads what create and swap answer: 1 for done, and the record without its value, or 0 and the one that is there.
func (s *Store) current(r session.Record, answer []any) (session.Record, bool, error) {
	if len(answer) < 2 {
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
	answer, err := s.rdb.Run(ctx, remove, s.keys(tag, id), id).Slice()
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
	answer, err := s.rdb.Run(ctx, showFence, s.userKeys(tag)).StringSlice()
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
	n, err := s.rdb.Run(ctx, revoke, s.userKeys(tag), args...).Int()
	return n, failure(err)
}

// List is one script.
func (s *Store) List(ctx context.Context, tag string) ([]session.Record, error) {
	answer, err := s.rdb.Run(ctx, list, s.userKeys(tag), s.key(tag, "")).Slice()
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
