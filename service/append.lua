-- One click, atomically: dedupe, place, trim, refresh, log, count.
-- KEYS: session, events, clicks, sequence, trending, trending_t0; all of one shard
-- ARGV: session id, item, timestamp, type, event id or '', max clicks, TTL in seconds,
--       the log's hard cap, trending half-life in seconds, trending max items, 1 to get the session back
-- Returns {length, 1 if duplicate, the session's clicks if asked for}.
local session, events, clicks, sequence, trending, trending_t0 = unpack(KEYS)
local session_id, item, timestamp, click_type, event_id = unpack(ARGV, 1, 5)
local max_clicks, ttl_seconds, log_cap = tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
local half_life, trending_max, with_session = tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11] == '1'

-- After this many half-lives a click counts for nothing, and scores are rebased long before they overflow.
local HORIZON = 64

local function answer(duplicate)
  redis.call('EXPIRE', session, ttl_seconds)
  redis.call('EXPIRE', events, ttl_seconds)
  local found = with_session and redis.call('ZRANGE', session, 0, -1) or {}
  return {redis.call('ZCARD', session), duplicate, found}
end

-- Before the cap: a retried click that is in the log already can be acknowledged however full the log is.
if event_id ~= '' and redis.call('SISMEMBER', events, event_id) == 1 then
  return answer(1)
end
if redis.call('XLEN', clicks) >= log_cap then
  return redis.error_reply('CLICKLOGFULL ' .. clicks .. ' holds its maximum of ' .. ARGV[8] .. ' entries')
end

-- Lua writes large numbers with 14 digits unless told otherwise; the timestamp stays the client's own text.
local number = string.format('%.0f', redis.call('INCR', sequence))
-- Equal timestamps are ordered by member, so the padded arrival number comes first.
local member = table.concat({string.rep('0', 16 - #number) .. number, timestamp, click_type, event_id, item}, '\31')
redis.call('ZADD', session, timestamp, member)
redis.call('ZREMRANGEBYRANK', session, 0, -max_clicks - 1)
if event_id ~= '' then
  redis.call('SADD', events, event_id)
end
redis.call('XADD', clicks, '*', 'seq', number, 'session', session_id, 'item', item,
  'ts', timestamp, 'type', click_type, 'event', event_id)

-- Trending: a click weighs 2^((its time - t0) / half-life), so older ones fade without being touched.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local origin = redis.call('GET', trending_t0)
local t0, stored_half_life = now, half_life
if origin then
  t0, stored_half_life = string.match(origin, '(%S+) (%S+)')
  t0, stored_half_life = tonumber(t0), tonumber(stored_half_life)
end
local age = math.abs(now - t0) / stored_half_life -- of t0; negative only if the server's clock was set back
if not origin or age > HORIZON or stored_half_life ~= half_life then
  redis.call('ZUNIONSTORE', trending, 1, trending, 'WEIGHTS', 2 ^ -age)
  redis.call('ZREMRANGEBYSCORE', trending, '-inf', 2 ^ -HORIZON)
  redis.call('SET', trending_t0, string.format('%.17g %.17g', now, half_life))
  t0 = now
end
local clicked = math.min(tonumber(timestamp), now)
if now - clicked < HORIZON * half_life then
  redis.call('ZINCRBY', trending, 2 ^ ((clicked - t0) / half_life), item)
end
local excess = redis.call('ZCARD', trending) - trending_max
if excess > trending_max then
  redis.call('ZREMRANGEBYRANK', trending, 0, excess - 1)
end

return answer(0)
