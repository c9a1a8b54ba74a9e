-- A shard's highest trending scores, decayed to now.
-- KEYS: trending, trending_t0; both of one shard. ARGV: how many items
-- Returns {item, score, item, score, ...}, the scores as text.
local origin = redis.call('GET', KEYS[2])
if not origin then
  return {}
end
local t0, half_life = string.match(origin, '(%S+) (%S+)')
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local decay = 2 ^ ((tonumber(t0) - now) / tonumber(half_life))
local found = redis.call('ZREVRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
for i = 2, #found, 2 do
  found[i] = string.format('%.17g', tonumber(found[i]) * decay)
end
return found
