-- Trend: sessions are counted, each by its first click on an item that counts. Such a click weighs
-- 2^((its time - t0) / half-life), so older ones fade without being touched.
if is_first then
  -- After this many half-lives a click counts for nothing, and scores are rebased long before they overflow.
  local HORIZON = 64
  local origin = redis.call('GET', trending_t0)
  local t0, stored_half_life = now, half_life
  if origin then
    t0, stored_half_life = string.match(origin, '(%S+) (%S+)')
    t0, stored_half_life = tonumber(t0), tonumber(stored_half_life)
  end
  local age = math.abs(now - t0) / stored_half_life -- negative only if the server's clock was set back
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
end
