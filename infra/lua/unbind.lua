-- KEYS: session, counter, first bind. ARGV: msgpack {me, product}. Returns {status, user before}.
local a = cmsgpack.unpack(ARGV[1])
local me = me_from(a[1])
local cur = redis.call('HMGET', KEYS[1], unpack(SESSION))
if not cur[1] or tonumber(cur[1]) ~= me.generation or tonumber(cur[2]) ~= me.number then return {'superseded', ''} end
redis.call('HDEL', KEYS[1], 'b:' .. a[2])
local user = redis.call('HGET', KEYS[3], 'user') or ''
redis.call('DEL', KEYS[3])
return {'ok', user}
