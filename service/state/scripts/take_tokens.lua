-- Take as many tokens from each bucket, or none from any. After bucket.lua.
-- KEYS: the buckets. ARGV: how many tokens are wanted, then the limit per minute of each bucket
-- Returns how many seconds to wait, as text, and for which bucket; 0 and 0 when they are taken.
local now = time()
local longest, of, full_at = 0, 0, {}
for i, key in ipairs(KEYS) do
  local wait
  wait, full_at[i] = look(key, tonumber(ARGV[i + 1]), tonumber(ARGV[1]), now)
  if wait > longest then
    longest, of = wait, i
  end
end
if of == 0 then
  for i, key in ipairs(KEYS) do
    keep(key, full_at[i], now)
  end
end
return {seconds(longest), of}
