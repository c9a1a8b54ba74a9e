-- Items in the order of their ids, from behind one on.
-- KEYS: ids, items
-- ARGV: the id, '' for none; how many
-- Answers id and document in turns.
local start = ARGV[1] == '' and '-' or '(' .. ARGV[1]
local ids = redis.call('ZRANGE', KEYS[1], start, '+', 'BYLEX', 'LIMIT', 0, ARGV[2])
if #ids == 0 then
  return {}
end
local items = {}
for n, document in ipairs(redis.call('HMGET', KEYS[2], unpack(ids))) do
  items[#items + 1] = ids[n]
  items[#items + 1] = document
end
return items
