-- KEYS: first bind. Returns the user of a client that is bound as the registry has it ('' for none), or false.
local known = redis.call('HMGET', KEYS[1], 'document', 'user')
return known[1] and (known[2] or '')
