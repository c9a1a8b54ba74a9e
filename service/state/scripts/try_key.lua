-- A key that an address has sent: wrong ones take from a bucket, and once that is empty none is tried any more,
-- so that nobody learns which one is right; but an address that has sent the right one goes on. After bucket.lua.
-- KEYS: the bucket of the address, the mark of an address that has sent the right key
-- ARGV: wrong keys per minute, whether this one is right (1 or 0), how many seconds the mark stays
-- Returns how many seconds to wait, as text; 0 when it was tried.
local is_right = ARGV[2] == '1'
if not (is_right and redis.call('GET', KEYS[2])) then
  local now = time()
  local wait, full_at = look(KEYS[1], tonumber(ARGV[1]), 1, now)
  if wait > 0 then
    return seconds(wait)
  end
  if not is_right then
    keep(KEYS[1], full_at, now)
  end
end
if is_right then
  redis.call('SET', KEYS[2], '1', 'EX', ARGV[3])
end
return '0'
