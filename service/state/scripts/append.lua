-- One click, atomically: dedupe, place, trim, refresh, log, judge, count.
-- KEYS: session, events, clicks, sequence, trending, trending_t0, shown, quality, cold, co; all of one shard;
--       quality and co are what the keys of one version and of one item begin with
-- ARGV: session id, item, timestamp, type, event id or '', recommendation id or '', its version if it is one
--       of ours or '', max clicks, TTL in seconds, the log's hard cap, trending half-life in seconds, trending
--       max items, cold max items, cold max neighbours, 1 if no bundle knows the item, 1 to get the session back
-- Returns {length, 1 if duplicate, the session's clicks if asked for, {version, rank or 0, ...} judged}.
local session, events, clicks, sequence, trending, trending_t0, shown, quality, cold, co = unpack(KEYS)
local session_id, item, timestamp, click_type, event_id, recommendation_id, version = unpack(ARGV, 1, 7)
local max_clicks, ttl_seconds, log_cap = tonumber(ARGV[8]), ARGV[9], tonumber(ARGV[10])
local half_life, trending_max = tonumber(ARGV[11]), tonumber(ARGV[12])
local cold_max, neighbours_max, is_cold = tonumber(ARGV[13]), tonumber(ARGV[14]), ARGV[15] == '1'
local with_session = ARGV[16] == '1'

-- After this many half-lives a click counts for nothing, and scores are rebased long before they overflow.
local HORIZON = 64
local QUALITY_SECONDS = 90 * 86400 -- a version's figures outlive it by this
local COLD_SECONDS = 7 * 86400     -- by then a bundle knows the item, or nobody clicks it any more
local WINDOW = 10                  -- newest clicks of the session that are neighbours of this one

local function answer(duplicate, judged)
  redis.call('EXPIRE', session, ttl_seconds)
  redis.call('EXPIRE', events, ttl_seconds)
  local found = with_session and redis.call('ZRANGE', session, 0, -1) or {}
  return {redis.call('ZCARD', session), duplicate, found, judged}
end

-- Before the cap: a retried click that is in the log already can be acknowledged however full the log is.
if event_id ~= '' and redis.call('SISMEMBER', events, event_id) == 1 then
  return answer(1, {})
end
if redis.call('XLEN', clicks) >= log_cap then
  return redis.error_reply('CLICKLOGFULL ' .. clicks .. ' holds its maximum of ' .. ARGV[10] .. ' entries')
end

-- Lua writes large numbers with 14 digits unless told otherwise; the timestamp stays the client's own text.
local number = string.format('%.0f', redis.call('INCR', sequence))
-- Equal timestamps are ordered by member, so the padded arrival number comes first.
local member = table.concat({string.rep('0', 16 - #number) .. number, timestamp, click_type, event_id, item}, '\31')
local before = redis.call('ZREVRANGE', session, 0, WINDOW - 1)
redis.call('ZADD', session, timestamp, member)
redis.call('ZREMRANGEBYRANK', session, 0, -max_clicks - 1)
if event_id ~= '' then
  redis.call('SADD', events, event_id)
end
redis.call('XADD', clicks, '*', 'seq', number, 'session', session_id, 'item', item,
  'ts', timestamp, 'type', click_type, 'event', event_id, 'rec', recommendation_id)

-- Live quality: the click judges what the last answer showed, once.
local judged = {}
local answered = redis.call('HGETALL', shown)
for i = 1, #answered, 2 do
  local of, items = answered[i], answered[i + 1]
  if of ~= ':id' then
    local rank, hit = 0, 0
    for shown_item in string.gmatch(items, '[^\31]+') do
      rank = rank + 1
      if shown_item == item then
        hit = rank
        break
      end
    end
    local key = quality .. of
    redis.call('HINCRBY', key, 'judged', 1)
    if hit > 0 then
      redis.call('HINCRBY', key, 'hits', 1)
      redis.call('HINCRBYFLOAT', key, 'reciprocal_ranks', string.format('%.17g', 1 / hit))
    end
    redis.call('EXPIRE', key, QUALITY_SECONDS)
    judged[#judged + 1] = of
    judged[#judged + 1] = hit
  end
end
if #answered > 0 then
  redis.call('DEL', shown)
end
if version ~= '' then
  redis.call('HINCRBY', quality .. version, 'feedback', 1)
  redis.call('EXPIRE', quality .. version, QUALITY_SECONDS)
end

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

-- Cold items: a pair of items counts once a session, and is kept of those items only that no bundle knows.
if cold_max > 0 and (is_cold or redis.call('EXISTS', cold) == 1) then
  local function count(of, neighbour)
    local key = co .. of
    redis.call('ZINCRBY', key, 1, neighbour)
    if redis.call('ZCARD', key) > 2 * neighbours_max then
      redis.call('ZREMRANGEBYRANK', key, 0, -neighbours_max - 1)
    end
    redis.call('EXPIRE', key, COLD_SECONDS)
  end
  local others, seen = {}, {}
  for _, click in ipairs(before) do
    local other = string.match(click, '^[^\31]*\31[^\31]*\31[^\31]*\31[^\31]*\31(.*)$')
    if not seen[other] then
      seen[other] = true
      others[#others + 1] = other
    end
  end
  if is_cold then
    redis.call('ZADD', cold, now, item)
    redis.call('EXPIRE', cold, COLD_SECONDS)
    for _, oldest in ipairs(redis.call('ZRANGE', cold, 0, -cold_max - 1)) do
      redis.call('DEL', co .. oldest)
      redis.call('ZREM', cold, oldest)
    end
  end
  if not seen[item] then
    for _, other in ipairs(others) do
      if is_cold then
        count(item, other)
      end
      if redis.call('ZSCORE', cold, other) then
        count(other, item)
      end
    end
  end
end

-- Trending: a click weighs 2^((its time - t0) / half-life), so older ones fade without being touched.
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

return answer(0, judged)
