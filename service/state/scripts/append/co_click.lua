-- Co-click: what sessions clicked beside an item that no bundle knows. A pair counts once a session, of clicks
-- that count, and is kept of such items only.
if is_first and cold_max > 0 and (is_cold or redis.call('EXISTS', cold) == 1) then
  local NEWEST = 10 -- so many of the session's clicks are neighbours of this one, which is there by now
  local KEPT_SECONDS = 7 * 86400 -- by then a bundle knows the item, or nobody clicks it any more

  local function count(of, neighbour)
    local key = co .. of
    redis.call('ZINCRBY', key, 1, neighbour)
    if redis.call('ZCARD', key) > 2 * neighbours_max then
      redis.call('ZREMRANGEBYRANK', key, 0, -neighbours_max - 1)
    end
    redis.call('EXPIRE', key, KEPT_SECONDS)
  end

  local others, seen = {}, {[item] = true}
  for _, click in ipairs(redis.call('ZREVRANGE', session, 0, NEWEST)) do
    local other = string.match(click, '^[^\31]*\31[^\31]*\31[^\31]*\31[^\31]*\31(.*)$')
    if not seen[other] then
      seen[other] = true
      if redis.call('ZSCORE', marks, 'i' .. other) then
        others[#others + 1] = other
      end
    end
  end
  if is_cold then
    redis.call('ZADD', cold, now, item)
    redis.call('EXPIRE', cold, KEPT_SECONDS)
    for _, oldest in ipairs(redis.call('ZRANGE', cold, 0, -cold_max - 1)) do
      redis.call('DEL', co .. oldest)
      redis.call('ZREM', cold, oldest)
    end
  end
  for _, other in ipairs(others) do
    if is_cold then
      count(item, other)
    end
    if redis.call('ZSCORE', cold, other) then
      count(other, item)
    end
  end
end
