-- KEYS[1]  state: the time in microseconds, then level and unit of each rule, all float64
-- ARGV     for each rule: leak, unit, full, charge (whole numbers; see ratelimit.Rule)
-- returns  1 if granted else 0, then the level of each rule
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local state = redis.call('GET', KEYS[1])
local last = now
if state then last = struct.unpack('<d', state) end
local elapsed = math.max(0, now - last)

local granted, rules, levels, longest = 1, #ARGV / 4, {}, 0
for i = 1, rules do
  local leak, unit, full, charge = tonumber(ARGV[4*i-3]), tonumber(ARGV[4*i-2]), tonumber(ARGV[4*i-1]), tonumber(ARGV[4*i])
  local level = 0
  if state and #state >= 8 + 16*i then
    local was
    level, was = struct.unpack('<dd', state, 16*i - 7)
    if was ~= unit then level = math.ceil(level / was * unit) end -- the limit has changed
    level = math.max(0, math.min(level, full) - leak * elapsed)
  end
  levels[i] = level
  if level + charge > full then granted = 0 end
end

-- A refusal is charged nothing. It is written only after the clock went back, which would else stop the draining until then.
if granted == 1 or last > now then
  local parts = { struct.pack('<d', now) }
  for i = 1, rules do
    local leak, unit, charge = tonumber(ARGV[4*i-3]), tonumber(ARGV[4*i-2]), tonumber(ARGV[4*i])
    if granted == 1 then levels[i] = levels[i] + charge end
    parts[i + 1] = struct.pack('<dd', levels[i], unit)
    longest = math.max(longest, levels[i] / leak)
  end
  redis.call('SET', KEYS[1], table.concat(parts), 'PX', math.ceil(longest / 1000) + 1)
end
table.insert(levels, 1, granted)
return levels
