-- What `append` works on, for all of its parts: the names of the keys, the click, and the limits that hold.
-- The parts are no functions but one run of statements: a table and a closure for each cost a tenth more.
--
-- KEYS: session, marks, clicks, sequence, trending, trending_t0, shown, judged, quality, cold, co; of one shard.
--       quality and co are what the keys of one version and of one item begin with. Which ones those are is
--       read here (what was shown, what the session clicked), so no caller can declare them; they have the
--       shard's hash tag, and so its slot.
-- ARGV: one array in MessagePack, in the order of `Appending` in store.py. What is not known is ''. The
--       timestamp is the client's own text: Lua would write it with 14 digits.
-- Returns {length, 1 if duplicate, the session's clicks if asked for, {version, rank or 0, ...} judged,
--          the click's number in its shard's log, 0 for a duplicate}.
local session, marks, clicks, sequence, trending, trending_t0, shown, told, quality, cold, co = unpack(KEYS)
local session_id, item, timestamp, click_type, event_id, recommendation_id, version, feeds, counts, is_cold,
  with_session, max_clicks, max_events, max_logged, ttl_seconds, log_cap, half_life, trending_max, cold_max,
  neighbours_max =
  unpack(cmsgpack.unpack(ARGV[1]))

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local function answer(duplicate, judged, number)
  redis.call('EXPIRE', session, ttl_seconds)
  redis.call('EXPIRE', marks, ttl_seconds)
  local found = with_session and redis.call('ZRANGE', session, 0, -1) or {}
  return {redis.call('ZCARD', session), duplicate, found, judged, number}
end
