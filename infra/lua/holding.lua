-- KEYS: session, counter, first bind. ARGV: product. Who has a client's bind; changes nothing.
-- Returns {generation, number, room, epoch, 1 if that session has it, 1 if the registry has it}; of a client without a session the
-- number is the counter's, which all of its sessions are behind, and the room ''.
local cur = redis.call('HMGET', KEYS[1], 'generation', 'number', 'room', 'epoch', 'b:' .. ARGV[1])
local known = redis.call('HEXISTS', KEYS[3], 'document')
if cur[1] then return {cur[1], cur[2], cur[3], cur[4], cur[5] and 1 or 0, known} end
return {GENERATION, redis.call('GET', KEYS[2]) or '0', '', 0, 0, known}
