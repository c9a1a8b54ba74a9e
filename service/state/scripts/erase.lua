-- Erase a session and leave a tombstone in the click log, atomically.
-- KEYS: session, events, clicks, sequence, shown; all of one shard. ARGV: session id, the log's hard cap
-- Returns how many keys were deleted.
local session, events, clicks, sequence, shown = unpack(KEYS)
if redis.call('XLEN', clicks) >= tonumber(ARGV[2]) then
  return redis.error_reply('CLICKLOGFULL ' .. clicks .. ' holds its maximum of ' .. ARGV[2] .. ' entries')
end
local number = string.format('%.0f', redis.call('INCR', sequence))
redis.call('XADD', clicks, '*', 'seq', number, 'session', ARGV[1], 'erased', '1')
redis.call('DEL', shown)
return redis.call('DEL', session, events)
