-- How far a shard's click log is, and how far it is collected.
-- KEYS: clicks, sequence, collected; all of one shard
-- Returns {entries, last sequence number, last one collected, ms since the oldest entry after that, or -1}.
local clicks, sequence, collected = unpack(KEYS)
local id, number = string.match(redis.call('GET', collected) or '0-0 0', '(%S+) (%S+)')
local age = -1
local oldest = redis.call('XRANGE', clicks, '(' .. id, '+', 'COUNT', 1)[1]
if oldest then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  age = math.max(0, now - tonumber(string.match(oldest[1], '^%d+')))
end
return {redis.call('XLEN', clicks), tonumber(redis.call('GET', sequence) or 0), tonumber(number), age}
