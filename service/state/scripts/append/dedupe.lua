-- Dedupe: a click with an event id that the session has seen is acknowledged again, and changes nothing.
-- A click that is new is refused while the log is full.

-- Before the cap: a retried click that is in the log already can be acknowledged however full the log is.
if event_id ~= '' and redis.call('SISMEMBER', events, event_id) == 1 then
  return answer(1, {})
end
if redis.call('XLEN', clicks) >= log_cap then
  return redis.error_reply('CLICKLOGFULL ' .. clicks .. ' holds its maximum of ' .. log_cap .. ' entries')
end
