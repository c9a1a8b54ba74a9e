-- Store, replace and delete items in one step. What is as it was keeps its number.
-- KEYS: items, changed, ids, gone, numbers, batches
-- ARGV: the batch's token, most tombstones, most batches, the document that must be there now if it is one
-- item ('' for any); then of each item its id and its document ('' deletes it)
-- Answers of each item 1 changed, 0 as it was, -1 another document is there.
local ids, outcomes = {}, {}
for place = 5, #ARGV, 2 do
  ids[#ids + 1] = ARGV[place]
end
local before = redis.call('HMGET', KEYS[1], unpack(ids))
local last = tonumber(redis.call('HGET', KEYS[5], 'last') or 0)
local first = last
local set, changed, new, born, dead, buried = {}, {}, {}, {}, {}, {}
for n, id in ipairs(ids) do
  local document = ARGV[2 * n + 4]
  if ARGV[4] ~= '' and before[n] ~= ARGV[4] then
    outcomes[n] = -1
  elseif (before[n] or '') == document then
    outcomes[n] = 0
  else
    outcomes[n] = 1
    last = last + 1
    local number = string.format('%.0f', last)
    changed[#changed + 1] = number
    changed[#changed + 1] = id
    if document == '' then
      dead[#dead + 1] = id
      buried[#buried + 1] = number
      buried[#buried + 1] = id
    else
      set[#set + 1] = id
      set[#set + 1] = document
      if not before[n] then
        new[#new + 1] = id
        born[#born + 1] = 0
        born[#born + 1] = id
      end
    end
  end
end
if last == first then
  return outcomes
end
if #set > 0 then
  redis.call('HSET', KEYS[1], unpack(set))
end
if #new > 0 then
  redis.call('ZADD', KEYS[3], unpack(born))
  redis.call('ZREM', KEYS[4], unpack(new))
end
if #dead > 0 then
  redis.call('HDEL', KEYS[1], unpack(dead))
  redis.call('ZREM', KEYS[3], unpack(dead))
  redis.call('ZADD', KEYS[4], unpack(buried))
end
redis.call('ZADD', KEYS[2], unpack(changed))
redis.call('HSET', KEYS[5], 'last', string.format('%.0f', last))
redis.call('ZADD', KEYS[6], string.format('%.0f', last), ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[6], 0, -1 - tonumber(ARGV[3]))
-- Of a thousand items more than as many are never too many, so that this is as short as the rest.
local surplus = redis.call('ZCARD', KEYS[4]) - tonumber(ARGV[2])
if surplus > 0 then
  local oldest = redis.call('ZRANGE', KEYS[4], 0, math.min(surplus, 1000) - 1)
  redis.call('HSET', KEYS[5], 'forgotten', redis.call('ZSCORE', KEYS[4], oldest[#oldest]))
  redis.call('ZREM', KEYS[4], unpack(oldest))
  redis.call('ZREM', KEYS[2], unpack(oldest))
end
return outcomes
