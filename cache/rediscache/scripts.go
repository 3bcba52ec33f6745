package rediscache

import "github.com/fairlead/fairlead/scale/redisconn"

// lease reads a record and takes, or renews, the lease for a missing one. To renew only, it never takes it: an invalidation
// may have ended it.
//
//	KEYS record, lease, token    ARGV the lease, its milliseconds, the ID of a record that does not count, 1 to renew only
//	→ record, its milliseconds left, whether leased, token
var lease = redisconn.NewScript(`
local record = redis.call('GET', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
if record and (#record < 16 or left <= 0) then record = false end
if record and (ARGV[3] == '' or string.sub(record, 1, 16) ~= ARGV[3]) then
	return {record, left, 0, ''}
end
local leased = false
if redis.call('GET', KEYS[2]) == ARGV[1] then
	redis.call('PEXPIRE', KEYS[2], ARGV[2])
	leased = true
elseif ARGV[4] == '0' then
	leased = redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
end
return {record or '', left, leased and 1 or 0, redis.call('GET', KEYS[3]) or ''}
`)

// fill stores a record while its lease stands. Sent twice, it says yes twice.
//
//	KEYS record, lease    ARGV the lease, the record or nothing, its milliseconds    → 1 if stored
var fill = redisconn.NewScript(`
if redis.call('GET', KEYS[2]) == ARGV[1] then
	redis.call('DEL', KEYS[2])
	if ARGV[2] == '' then return 0 end
	redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
	return 1
end
if ARGV[2] ~= '' and redis.call('GETRANGE', KEYS[1], 0, 15) == ARGV[1] then return 1 end
return 0
`)

// luaClock reads the clock, and starts a new incarnation where this server is not the one that counted so far. Incarnations
// are microseconds of the server's time, but always greater than the one before that is known of.
const luaClock = `
local function clock(key)
	local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
	local c = redis.call('HMGET', key, 'run', 'incarnation', 'n')
	if c[1] == run then return c[2], tonumber(c[3]) end
	local t = redis.call('TIME')
	local incarnation = math.max(t[1] * 1000000 + t[2], (tonumber(c[2]) or 0) + 1)
	incarnation = string.format('%016.0f', incarnation)
	redis.call('HSET', key, 'run', run, 'incarnation', incarnation, 'n', 0)
	return incarnation, 0
end
`

// luaPublish advances the clock and says so on the bus.
const luaPublish = luaClock + `
local function publish(key, channel, message)
	local incarnation = clock(key)
	local n = redis.call('HINCRBY', key, 'n', 1)
	redis.call('PUBLISH', channel, incarnation .. ' ' .. string.format('%.0f', n) .. ' ' .. message)
	return {incarnation, n}
end
`

// luaDrop deletes a record and its lease and merges a token into the key's, as causal.Merge does: a set of tag=position in the
// order of the tags, of which the greater position counts. Strings are compared by bytes; Lua's own comparison goes by the
// server's locale.
const luaDrop = `
local function less(x, y)
	for i = 1, math.min(#x, #y) do
		local p, q = string.byte(x, i), string.byte(y, i)
		if p ~= q then return p < q end
	end
	return #x < #y
end
local function merge(a, b)
	if not a or a == b then return b end
	local at, tags = {}, {}
	for part in string.gmatch(a .. ',' .. b, '[^,]+') do
		local tag, position = string.match(part, '^([^=]+)=(.+)$')
		if not tag then return '?' end
		if not at[tag] then
			tags[#tags + 1] = tag
			at[tag] = position
		elseif less(at[tag], position) then
			at[tag] = position
		end
	end
	table.sort(tags, less)
	for i, tag in ipairs(tags) do tags[i] = tag .. '=' .. at[tag] end
	return table.concat(tags, ',')
end
local function drop(record, lease, token, written, ttl)
	redis.call('DEL', record, lease)
	if written ~= '' then
		redis.call('SET', token, merge(redis.call('GET', token), written), 'PX', ttl)
	end
end
`

// invalidate does all of it at once.
//
//	KEYS clock, then record, lease and token of each key    ARGV channel, message, token, its milliseconds    → incarnation, n
var invalidate = redisconn.NewScript(luaPublish + luaDrop + `
for i = 2, #KEYS, 3 do drop(KEYS[i], KEYS[i + 1], KEYS[i + 2], ARGV[3], ARGV[4]) end
return publish(KEYS[1], ARGV[1], ARGV[2])
`)

// drop and publish are invalidate in two steps, for Cluster.
var (
	drop = redisconn.NewScript(luaDrop + `
drop(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2])
return 1
`)
	publish = redisconn.NewScript(luaPublish + `return publish(KEYS[1], ARGV[1], ARGV[2])`)
)

// read reports the clock.
var read = redisconn.NewScript(luaClock + `
local incarnation, n = clock(KEYS[1])
return {incarnation, n}
`)

// beacon reports the clock on a listener's own channel.
var beacon = redisconn.NewScript(luaClock + `
local incarnation, n = clock(KEYS[1])
redis.call('PUBLISH', ARGV[1], incarnation .. ' ' .. string.format('%.0f', n) .. ' ')
return 1
`)
