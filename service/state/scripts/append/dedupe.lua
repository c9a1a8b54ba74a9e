-- Dedupe: a click with an event id that the session has seen is acknowledged again, and changes nothing.
-- A click that is new is refused while the log is full, or when its session has had its share of the log.
-- Leaves `logged`, how many clicks of the session are in the log with this one.

-- Before the cap: a retried click that is in the log already can be acknowledged however full the log is.
if event_id ~= '' and redis.call('ZSCORE', marks, 'e' .. event_id) then
  return answer(1, {}, 0)
end
if redis.call('XLEN', clicks) >= log_cap then
  return redis.error_reply('CLICKLOGFULL ' .. clicks .. ' holds its maximum of ' .. log_cap .. ' entries')
end
local logged = -tonumber(redis.call('ZINCRBY', marks, -1, '#'))
if logged > max_logged then
  redis.call('ZINCRBY', marks, 1, '#')
  return redis.error_reply('SESSIONFULL the session has logged its maximum of ' .. max_logged .. ' clicks')
end
