-- What has changed since a number, oldest change first.
-- KEYS: items, changed, numbers, batches
-- ARGV: the number, -1 for none; the number and the token of the newest batch then; the number of the newest
-- batch when all was begun to be read; how many items, how many bytes
-- Answers whether all that was known is void, whether there is more, the number so far, the number and the
-- token of the newest batch now, that when all was begun to be read, and id and document (nil: deleted) in
-- turns.
local numbers = redis.call('HMGET', KEYS[3], 'last', 'forgotten')
local last, forgotten = tonumber(numbers[1] or 0), tonumber(numbers[2] or 0)
local after, seen, begun = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
-- What was deleted before all was begun to be read is missed by nobody.
local is_void = after < 0 or (after > 0 and math.max(after, begun) < forgotten)
if not is_void and seen > 0 then
  -- Numbers that were lost are given again, to others; the token of a batch is not.
  is_void = tonumber(redis.call('ZSCORE', KEYS[4], ARGV[3]) or -1) ~= seen
end
if is_void then
  after, begun = 0, last
elseif after == last then
  return {0, 0, last, seen, ARGV[3], begun, {}}
end
local limit, bytes = tonumber(ARGV[5]), tonumber(ARGV[6])
local start = '(' .. string.format('%.0f', after)
local found = redis.call('ZRANGE', KEYS[2], start, '+inf', 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
local items, count, place = {}, #found / 2, 0
while place < count and bytes > 0 do
  local ids = {}
  for n = place + 1, math.min(place + 100, count) do
    ids[#ids + 1] = found[2 * n - 1]
  end
  for n, document in ipairs(redis.call('HMGET', KEYS[1], unpack(ids))) do
    items[#items + 1] = ids[n]
    items[#items + 1] = document
    bytes = bytes - #ids[n] - (document and #document or 0)
  end
  place = place + #ids
end
local number = place > 0 and tonumber(found[2 * place]) or last
local is_more = place < count or (count == limit and number < last)
local newest = redis.call('ZREVRANGE', KEYS[4], 0, 0)
return {is_void and 1 or 0, is_more and 1 or 0, is_more and number or last, last, newest[1] or '', begun, items}
