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
    local function count(of, hit)
      local key = quality .. of
      redis.call('HINCRBY', key, 'judged', 1)
      if hit > 0 then
        redis.call('HINCRBY', key, 'hits', 1)
        redis.call('HINCRBYFLOAT', key, 'reciprocal_ranks', string.format('%.17g', 1 / hit))
      end
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
