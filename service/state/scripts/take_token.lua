-- Rate limit: a bucket of `limit` tokens that refills evenly over a minute (GCRA).
-- KEYS: the client's bucket. ARGV: limit per minute, how many tokens are wanted
-- Holds the time, in microseconds, at which the bucket is full again. Returns seconds to wait, as text.
local MINUTE = 60e6
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1e6 + tonumber(time[2])
local price = math.floor(MINUTE / tonumber(ARGV[1])) * tonumber(ARGV[2])
local full_at = math.max(tonumber(redis.call('GET', KEYS[1])) or now, now) + price
-- What is dearer than a full bucket passes when the bucket is full, and owes the rest.
local wait = full_at - now - math.max(MINUTE, price)
if wait > 0 then
  return string.format('%.6f', wait / 1e6)
end
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
return '0'
