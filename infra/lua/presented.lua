-- KEYS: a user's presence. ARGV: the sequence that was told.
if redis.call('HGET', KEYS[1], '#sequence') == ARGV[1] then return redis.call('HSET', KEYS[1], '#told', ARGV[1]) end
return 0
