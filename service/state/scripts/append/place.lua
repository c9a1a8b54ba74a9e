-- Place: the click goes by its timestamp among the newest of its session.
-- Leaves `number`, the click's in its shard, and `is_first`: the session counts for the item now, and never did.

-- Lua writes large numbers with 14 digits unless told otherwise.
local number = string.format('%.0f', redis.call('INCR', sequence))
-- Equal timestamps are ordered by member, so the padded arrival number comes first.
local arrival = string.rep('0', 16 - #number) .. number
local member = table.concat({arrival, timestamp, click_type, event_id, item}, '\31')
redis.call('ZADD', session, timestamp, member)
redis.call('ZREMRANGEBYRANK', session, 0, -max_clicks - 1)

local is_first = false
if counts and event_id ~= '' then
  is_first = redis.call('ZADD', marks, number, 'e' .. event_id, number, 'i' .. item) == 2
elseif counts then
  is_first = redis.call('ZADD', marks, number, 'i' .. item) == 1
elseif event_id ~= '' then
  redis.call('ZADD', marks, number, 'e' .. event_id)
end
if logged > max_events then -- before that there are not too many; the first of them all is '#'
  redis.call('ZREMRANGEBYRANK', marks, 1, -2 * max_events - 1)
end
