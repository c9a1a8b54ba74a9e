-- Log: what training learns from; a gap in the numbers is a lost entry.
redis.call('XADD', clicks, '*', 'seq', number, 'session', session_id, 'item', item,
  'ts', timestamp, 'type', click_type, 'event', event_id, 'rec', recommendation_id)
