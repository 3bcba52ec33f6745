package redissession

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

// making is the part of a creation that create and move share; ARGV is theirs.
const making = `
local function valid(fence)
  return ARGV[6] == '' or (redis.call('GET', fence) or '0') == ARGV[6] and now - tonumber(ARGV[7]) <= tonumber(ARGV[8])
end
local function make(record, index)
  local deadline, limit = tonumber(ARGV[4]), tonumber(ARGV[10])
  if deadline == 0 and tonumber(ARGV[3]) > 0 then deadline = now + tonumber(ARGV[3]) end
  local left, state = life(tonumber(ARGV[2]), deadline)
  if state == 'd' and left <= 0 then left = 1 end
  put(record, state, ARGV[5], 1, deadline, ARGV[1], left)
  if ARGV[5] == 'u' then
    redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
    if limit > 0 then
      local live = {}
      for _, id in ipairs(redis.call('ZRANGE', index, 0, -1)) do
        if redis.call('EXISTS', ARGV[11] .. id) == 1 then live[#live + 1] = id else redis.call('ZREM', index, id) end
      end
      for i = 1, #live + 1 - limit do
        redis.call('DEL', ARGV[11] .. live[i])
        redis.call('ZREM', index, live[i])
      end
    end
    local score = '+inf'
    if deadline > 0 then score = deadline end
    redis.call('ZADD', index, score, ARGV[9])
    local last = redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')[2]
    if last == 'inf' then redis.call('PERSIST', index) else redis.call('PEXPIREAT', index, string.format('%.0f', tonumber(last) + 1000)) end
  end
  return {state .. ARGV[5] .. string.format('%016d%016d', 1, deadline), '', left}
end
`

var (
	// KEYS record, index, fence. ARGV value, left, life, deadline, user, fence, time of the fence, its longest age, id, limit,
	// the prefix of the user's records.
	create = newScript(common + making + `
local found = redis.call('GET', KEYS[1])
if found then return {0, show(found, redis.call('PTTL', KEYS[1]))} end
if not valid(KEYS[3]) then return {2} end
return {1, make(KEYS[1], KEYS[2])}
`)

	// KEYS the old record, index, fence, the new record. ARGV as for create, then the old record's version, its new value,
	// its life as a pointer, its id.
	move = newScript(common + making + `
local found = redis.call('GET', KEYS[1])
if not found then return {0} end
local left = redis.call('PTTL', KEYS[1])
if string.sub(found, 1, 1) == 'p' or string.sub(found, 3, 18) ~= ARGV[12] then return {0, show(found, left)} end
local deadline = tonumber(string.sub(found, 19, 34))
left = life(tonumber(ARGV[14]), deadline)
if left <= 0 then return {0} end
if not valid(KEYS[3]) then return {2} end
put(KEYS[1], 'p', '-', tonumber(ARGV[12]) + 1, deadline, ARGV[13], left)
redis.call('ZREM', KEYS[2], ARGV[15])
return {1, make(KEYS[4], KEYS[2])}
`)

	// KEYS record, index. ARGV version, value, left, pinned, id.
	swap = newScript(common + `
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
	remove = newScript(`
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
	touch = newScript(common + `
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
	showFence = newScript(`
local t = redis.call('TIME')
return {redis.call('GET', KEYS[1]) or '0', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))}
`)

	// KEYS fence, index. ARGV how long the fence is kept, the prefix of the user's records, ids to spare. The keys of the
	// records have the hash tag of the named ones.
	revoke = newScript(`
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
	list = newScript(`
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
