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
if record and (#record <= 16 or left <= 0) then record = false end
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
local function anew(key, run, before)
	local t = redis.call('TIME')
	local incarnation = string.format('%016.0f', math.max(t[1] * 1000000 + t[2], (tonumber(before) or 0) + 1))
	redis.call('HSET', key, 'run', run, 'incarnation', incarnation, 'n', 0)
	return incarnation, 0
end
local function clock(key)
	local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
	local c = redis.call('HMGET', key, 'run', 'incarnation', 'n')
	if c[1] == run then return c[2], tonumber(c[3]) end
	return anew(key, run, c[2])
end
local function report(incarnation, n) return incarnation .. ' ' .. string.format('%.0f', n) .. ' ' end
`

// luaPublish advances the clock, stamps tags or the space, and says so on the bus.
const luaPublish = luaClock + luaMerge + `
local function publish(key, token, tags, channel, message, written, ttl, stampttl, all)
	local incarnation = clock(key)
	local n = redis.call('HINCRBY', key, 'n', 1)
	local stamp = incarnation .. string.format('.%016x', n)
	for _, tag in ipairs(tags) do redis.call('SET', tag, stamp, 'PX', stampttl) end
	if all == '1' then redis.call('HSET', key, 'all', stamp) end
	if written ~= '' and (all == '1' or #tags > 0) then
		redis.call('SET', token, merge(redis.call('GET', token), written), 'PX', ttl)
	end
	redis.call('PUBLISH', channel, report(incarnation, n) .. message)
	return {incarnation, n}
end
`

// luaMerge merges a token into another, as causal.Merge does: a set of tag=position in the order of the tags, of which the
// greater position counts. Strings are compared by bytes; Lua's own comparison goes by the server's locale.
const luaMerge = `
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
`

// luaDrop deletes a record and its lease and merges a token into the key's.
const luaDrop = `
local function drop(record, lease, token, written, ttl)
	redis.call('DEL', record, lease)
	if written ~= '' then
		redis.call('SET', token, merge(redis.call('GET', token), written), 'PX', ttl)
	end
end
`

// invalidate does all of it at once.
//
//	KEYS clock, the space's token, then record, lease and token of each key, then the stamps of tags
//	ARGV channel, message, token, its milliseconds, the stamps' milliseconds, 1 for everything, the number of keys
//	→ incarnation, n
var invalidate = redisconn.NewScript(luaPublish + luaDrop + `
local tags = {}
for i = 3, #KEYS do
	if i > 2 + 3 * ARGV[7] then
		tags[#tags + 1] = KEYS[i]
	elseif i % 3 == 0 then
		drop(KEYS[i], KEYS[i + 1], KEYS[i + 2], ARGV[3], ARGV[4])
	end
end
return publish(KEYS[1], KEYS[2], tags, ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
`)

// drop is its first part for one key, for Cluster, where the keys are not where the clock is.
var drop = redisconn.NewScript(luaMerge + luaDrop + `
drop(KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2])
return 1
`)

// stamp gives tags that have no stamp one, and has the others stay.
//
//	KEYS the stamps    ARGV the stamp, milliseconds
var stamp = redisconn.NewScript(`
for _, key in ipairs(KEYS) do
	if not redis.call('SET', key, ARGV[1], 'NX', 'PX', ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2], 'GT') end
end
return 1
`)

// read reports the clock and the space's token.
//
//	KEYS clock, the space's token
var read = redisconn.NewScript(luaClock + `
local incarnation, n = clock(KEYS[1])
return {incarnation, n, redis.call('GET', KEYS[2]) or ''}
`)

// beacon reports the clock on a listener's own channel. A primary of the Cluster that the clock has not heard of may stand for
// one that lost what it had: a new incarnation.
//
//	KEYS clock    ARGV channel, the run ids of the primaries
var beacon = redisconn.NewScript(luaClock + `
local incarnation, n = clock(KEYS[1])
if #ARGV > 1 then
	local known = redis.call('HGET', KEYS[1], 'primaries')
	local list, new = known or '', false
	for i = 2, #ARGV do
		if not string.find(list, ARGV[i], 1, true) then
			list, new = ARGV[i] .. ' ' .. list, true
		end
	end
	if new then
		redis.call('HSET', KEYS[1], 'primaries', string.sub(list, 1, 8192))
		if known then incarnation, n = anew(KEYS[1], redis.call('HGET', KEYS[1], 'run'), incarnation) end
	end
end
redis.call('PUBLISH', ARGV[1], report(incarnation, n))
return 1
`)
