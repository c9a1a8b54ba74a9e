-- Remember what a version shows, or would have shown, until the session's next click judges it.
-- KEYS: shown. ARGV: recommendation id, version, its items joined by \31, for how many seconds,
--       1 if only beside the answer of that id, 0 if in place of whatever is remembered,
--       the placement that it was shown in, '' for none
local id, version, items, seconds, beside, placement = unpack(ARGV)
if beside == '0' then
  redis.call('DEL', KEYS[1])
elseif redis.call('HGET', KEYS[1], ':id') ~= id then
  return 0
end
redis.call('HSET', KEYS[1], ':id', id, version, items)
if placement ~= '' then
  redis.call('HSET', KEYS[1], ':placement', placement .. '\31' .. version)
end
redis.call('EXPIRE', KEYS[1], seconds)
return 1
