-- KEYS: session, first bind. ARGV: product, mark of the bind that is over.
-- Removes what the registry knows of it, if nothing has bound since. Else returns {first bind, the document of what has}, if any.
local now = redis.call('HMGET', KEYS[2], 'bound', 'at', 'document')
if (now[1] or '') == ARGV[2] then redis.call('DEL', KEYS[2]) end
if (now[1] or '') == ARGV[2] or not now[2] then return {} end
return {now[2], now[3] or redis.call('HGET', KEYS[1], 'b:' .. ARGV[1]) or ''}
