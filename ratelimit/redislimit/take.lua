-- Takes permits, or gives some back.
-- KEYS[1]  state: the time in microseconds, then level and mark of each rule, all float64
-- KEYS[2]  where a rule counts permits in flight: a sorted set, one member a permit, by when it times out
-- ARGV[1]  permits; below 0 they are given back
-- ARGV[2]  the most that are welcome
-- ARGV[3]  id of the permits in flight
-- ARGV[4]  to give back: when they were granted, in microseconds
-- then 6 for each rule (see ratelimit.Rule; whole numbers):
--          'r', leak, unit, full, 0, 0                 a rate; its mark is unit
--          'c', permits, four bounds of three units    a quota; its mark is minus the start of the unit
--          'f', permits, ttl, 0, 0, 0                  in flight
-- returns  permits granted (-1: the clock is outside of the bounds), the time, then for each rule its level and how long until
--          the unit ends or the last permit in flight times out
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local text = string.format('%.0f', now)
local cost, most, id, since = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local rules = (#ARGV - 4) / 6
local state = redis.call('GET', KEYS[1])
local last = now
if state then last = struct.unpack('<d', state) end
local elapsed = math.max(0, now - last)

local granted, levels, marks, units, lives, waits, flight, stored = most, {}, {}, {}, {}, {}, 0, false
for i = 1, rules do
  local kind, a, b, c = ARGV[6*i-1], tonumber(ARGV[6*i]), tonumber(ARGV[6*i+1]), tonumber(ARGV[6*i+2])
  local level, mark, room = 0, 0
  if state and #state >= 8 + 16*i then level, mark = struct.unpack('<dd', state, 16*i - 7) end
  units[i], lives[i], waits[i] = 1, 0, 0
  if kind == 'r' then
    if mark <= 0 then
      level = 0
    elseif mark ~= b then
      level = math.ceil(level / mark * b) -- the limit has changed
    end
    level = math.max(0, math.min(level, c) - a * elapsed)
    if cost < 0 then level = math.max(0, level - math.max(0, -cost * b - a * (now - since))) end
    marks[i], units[i], lives[i], stored = b, b, 1 / a, true
    room = math.floor((c - level) / b)
  elseif kind == 'c' then
    local from, to
    for j = 6*i+1, 6*i+3 do
      local x, y = tonumber(ARGV[j]), tonumber(ARGV[j+1])
      if x <= now and now < y then from, to = x, y end
    end
    if not from then return {-1, now} end
    if mark ~= -from then level = 0 end
    level = math.min(level, a)
    if cost < 0 and since >= from then level = math.max(0, level + cost) end
    marks[i], waits[i], stored = -from, to - now, true
    room = a - level
  else
    flight = i
    level, marks[i] = 0, 0
    if cost < 0 then
      for n = 1, -cost do redis.call('ZREM', KEYS[2], id .. ':' .. n) end
    else
      level = redis.call('ZCOUNT', KEYS[2], '(' .. text, '+inf')
      if redis.call('ZSCORE', KEYS[2], id .. ':1') then level = math.max(0, level - cost) end -- asked again: the answer was lost
      level = math.min(level, a)
    end
    room = a - level
  end
  levels[i] = level
  granted = math.min(granted, room)
end
if granted < cost or cost < 0 then granted = 0 end

-- A refusal is charged nothing. It is written only after the clock went back, which would else stop the draining until then.
if stored and (granted > 0 or last > now or cost < 0 and state) then
  local parts, longest = { struct.pack('<d', now) }, 0
  for i = 1, rules do
    if granted > 0 then levels[i] = levels[i] + granted * units[i] end
    local level = levels[i]
    if i == flight then level = 0 end
    parts[i + 1] = struct.pack('<dd', level, marks[i])
    if i ~= flight then longest = math.max(longest, level * lives[i], level > 0 and waits[i] or 0) end
  end
  redis.call('SET', KEYS[1], table.concat(parts), 'PX', math.ceil(longest / 1000) + 1)
elseif granted > 0 then
  levels[flight] = levels[flight] + granted
end
if flight > 0 and cost > 0 then
  if granted > 0 then
    local ends = string.format('%.0f', now + tonumber(ARGV[6*flight+1]))
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text)
    for n = 1, granted do redis.call('ZADD', KEYS[2], ends, id .. ':' .. n) end
  end
  local latest = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
  if latest[2] then
    waits[flight] = math.max(0, tonumber(latest[2]) - now)
    if granted > 0 then redis.call('PEXPIRE', KEYS[2], math.ceil(waits[flight] / 1000) + 1) end
  end
end

local reply = { granted, now }
for i = 1, rules do
  reply[2*i+1], reply[2*i+2] = levels[i], waits[i]
end
return reply
