-- Judge: the click tells how good the last answer was, once, and which version's answer it came from.
-- Only a click that feeds the encoder does, and not one on the item that the answer was given on: that is no
-- choice among what was shown, which waits for one.
-- Leaves `judged`: {version or placement, rank of the item among those shown or 0, version, ...}.
local judged = {}
do
  local KEPT_SECONDS = 90 * 86400 -- a version's figures outlive it by this
  local answered = feeds and redis.call('HGETALL', shown) or {}
  for i = 1, #answered, 2 do
    if answered[i] == ':id' and string.match(answered[i + 1], '\31(.*)$') == item then
      answered = {}
      break
    end
  end
  if #answered > 0 then
    -- What was seen in a placement is that placement's, too; what a shadow would have shown there is not.
    local placement, shown_by
    for i = 1, #answered, 2 do
      if answered[i] == ':placement' then
        placement, shown_by = string.match(answered[i + 1], '^(.-)\31(.*)$')
      end
    end
    local function numbers(text, wanted)
      local found = {}
      for number in string.gmatch(text or '', '%S+') do
        found[#found + 1] = tonumber(number)
      end
      for missing = #found + 1, wanted do
        found[missing] = 0
      end
      return unpack(found)
    end
    local function written(...)
      local found = {}
      for place, number in ipairs({...}) do
        found[place] = string.format('%.17g', number)
      end
      return table.concat(found, ' ')
    end
    -- Clicks of one session are not independent, so what tells how far the figures may be off is summed over
    -- sessions. `spread`, of what was judged since there is such a thing: sessions, their clicks n, hits h and
    -- reciprocal ranks r, and n n, h n, h h, r n, r r of each session; see service/live/intervals.py.
    local function spread(key, of, hit)
      local n, h, r = numbers(redis.call('HGET', told, of), 3)
      local n_now, h_now, r_now = n + 1, h, r
      if hit > 0 then
        h_now, r_now = h + 1, r + 1 / hit
      end
      local sessions, ns, hs, rs, nn, hn, hh, rn, rr = numbers(redis.call('HGET', key, 'spread'), 9)
      if n == 0 then
        sessions = sessions + 1
      end
      redis.call('HSET', key, 'spread', written(
        sessions, ns + 1, hs + h_now - h, rs + r_now - r, nn + n_now * n_now - n * n,
        hn + h_now * n_now - h * n, hh + h_now * h_now - h * h,
        rn + r_now * n_now - r * n, rr + r_now * r_now - r * r))
      redis.call('HSET', told, of, written(n_now, h_now, r_now))
      redis.call('EXPIRE', told, ttl_seconds)
    end
    local function count(of, hit)
      local key = quality .. of
      redis.call('HINCRBY', key, 'judged', 1)
      if hit > 0 then
        redis.call('HINCRBY', key, 'hits', 1)
        redis.call('HINCRBYFLOAT', key, 'reciprocal_ranks', string.format('%.17g', 1 / hit))
      end
      spread(key, of, hit)
      redis.call('EXPIRE', key, KEPT_SECONDS)
      judged[#judged + 1] = of
      judged[#judged + 1] = hit
    end
    for i = 1, #answered, 2 do
      local of, items = answered[i], answered[i + 1]
      if string.sub(of, 1, 1) ~= ':' then
        local rank, hit = 0, 0
        for shown_item in string.gmatch(items, '[^\31]+') do
          rank = rank + 1
          if shown_item == item then
            hit = rank
            break
          end
        end
        count(of, hit)
        if of == shown_by then
          count(placement, hit)
        end
      end
    end
    redis.call('DEL', shown)
  end
  if version ~= '' then
    redis.call('HINCRBY', quality .. version, 'feedback', 1)
    redis.call('EXPIRE', quality .. version, KEPT_SECONDS)
  end
end
