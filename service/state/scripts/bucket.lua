-- A bucket of so many tokens that refills evenly over a minute (GCRA): begins the scripts that take from one.
-- Holds two times in microseconds: when it is full again, and when that was written down.
local MINUTE = 60e6

local function time()
  local now = redis.call('TIME')
  return tonumber(now[1]) * 1e6 + tonumber(now[2])
end

local function keep(key, full_at, now)
  redis.call('SET', key, string.format('%.0f %.0f', full_at, now), 'PX', math.ceil((full_at - now) / 1000))
end

-- How long to wait for `wanted` tokens, not above 0 when they are there, and when it is full again after them.
local function look(key, limit, wanted, now)
  local price = math.floor(MINUTE / limit) * wanted
  local full_at, written_at = string.match(redis.call('GET', key) or '', '^(%d+) (%d+)$')
  full_at, written_at = tonumber(full_at) or now, tonumber(written_at) or now
  if written_at > now then
    -- The clock has jumped back. Nobody waits for it to come round again: it has stood still, and now goes on.
    full_at = full_at - (written_at - now)
    if full_at > now then
      keep(key, full_at, now)
    end
  end
  full_at = math.max(full_at, now) + price
  -- What is dearer than a full bucket passes when the bucket is full, and owes the rest.
  return full_at - now - math.max(MINUTE, price), full_at
end

local function seconds(microseconds)
  return string.format('%.6f', microseconds / 1e6)
end
