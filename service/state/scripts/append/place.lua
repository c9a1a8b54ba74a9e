-- Place: the click goes by its timestamp among the newest of its session.
-- Leaves `number`, the click's in its shard, and `before`, the session's newest clicks until now.
local NEWEST = 10 -- so many are neighbours of this one: see co_click.lua

-- Lua writes large numbers with 14 digits unless told otherwise.
local number = string.format('%.0f', redis.call('INCR', sequence))
-- Equal timestamps are ordered by member, so the padded arrival number comes first.
local arrival = string.rep('0', 16 - #number) .. number
local member = table.concat({arrival, timestamp, click_type, event_id, item}, '\31')
local before = redis.call('ZREVRANGE', session, 0, NEWEST - 1)
redis.call('ZADD', session, timestamp, member)
redis.call('ZREMRANGEBYRANK', session, 0, -max_clicks - 1)
if event_id ~= '' then
  redis.call('SADD', events, event_id)
end
