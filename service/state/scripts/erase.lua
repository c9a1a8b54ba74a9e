-- Erase a session and leave a tombstone in the click log, atomically.
-- KEYS: session, marks, clicks, sequence, shown, judged; all of one shard. ARGV: session id, the log's hard cap
-- Returns how many keys were deleted, and the tombstone's number.
local session, marks, clicks, sequence, shown, judged = unpack(KEYS)
-- A log that is full of clicks has room for tombstones: a tenth more.
local most = ARGV[2] + math.ceil(ARGV[2] / 10)
if redis.call('XLEN', clicks) >= most then
  return redis.error_reply('CLICKLOGFULL ' .. clicks .. ' holds ' .. most .. ' entries, tombstones included')
end
-- Deleting first: a Redis without memory then lets the script finish.
redis.call('DEL', shown, judged)
local deleted = redis.call('DEL', session, marks)
local number = string.format('%.0f', redis.call('INCR', sequence))
redis.call('XADD', clicks, '*', 'seq', number, 'session', ARGV[1], 'erased', '1')
return {deleted, tonumber(number)}
