-- KEYS: session, told, first bind. ARGV: product, user. Returns 1 if the product will be told of this client's end: it was told that it
-- is there, or, where that is not known any more, it has a session from before and is bound by the registry.
local field = redis.call('HGET', KEYS[2], ARGV[1])
local known, online, user = string.match(field or '', '^(%d+) %-?%d+ %-?%d+ %-?%d+ (%d) (.*)$')
if known and tonumber(known) == GENERATION then return (online == '1' and user == ARGV[2]) and 1 or 0 end
local generation = redis.call('HGET', KEYS[1], 'generation')
if not generation or tonumber(generation) >= GENERATION then return 0 end
return redis.call('HEXISTS', KEYS[3], 'document')
