-- A shard's highest trending scores, as they are stored, and what decays them to now.
-- KEYS: trending, trending_t0; both of one shard. ARGV: how many items
-- Returns {factor as text, {item, score, item, score, ...}}.
local origin = redis.call('GET', KEYS[2])
if not origin then
  return {'1', {}}
end
local t0, half_life = string.match(origin, '(%S+) (%S+)')
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local decay = 2 ^ ((tonumber(t0) - now) / tonumber(half_life))
return {string.format('%.17g', decay), redis.call('ZREVRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')}
