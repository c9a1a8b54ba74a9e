-- Resume: a Redis that was started anew, or took another's place, is asked whether its log ends where it did.
-- KEYS: resumed, sequence; of one shard. ARGV: which run of Redis this is; the newest number that the caller
-- knows to have been acknowledged by an earlier one
-- Holds which run it is, at which number that began, and how many lost ones are known. Where numbers were lost
-- the log goes on behind them: its collector then sees the gap, and no number is given twice.
-- Returns how many more are lost than anybody knew.
local resumed, sequence = unpack(KEYS)
local run, at, lost = unpack(redis.call('HMGET', resumed, 'run', 'at', 'lost'))
if run ~= ARGV[1] then
  at, lost = redis.call('GET', sequence) or '0', '0'
  redis.call('HSET', resumed, 'run', ARGV[1], 'at', at, 'lost', lost)
end
local more = tonumber(ARGV[2]) - tonumber(at) - tonumber(lost)
if more <= 0 then
  return 0
end
redis.call('HINCRBY', resumed, 'lost', string.format('%.0f', more))
redis.call('SET', sequence, string.format('%.0f', tonumber(redis.call('GET', sequence) or 0) + more))
return more
