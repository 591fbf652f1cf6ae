-- KEYS: session, counter, owed, first bind, then the product's seven. ARGV: msgpack {me, product, window, limit, bytes, whole}, bind.
-- The user and the document are written by the caller, once Kafka has them: a repeat still sees what was before. `bound` marks
-- this bind, so that the end of one before it takes nothing away.
-- Returns {status, now, first bind, known document, user before, page, settled jobs, owed, 1 if the session had to be registered}.
local a = cmsgpack.unpack(ARGV[1])
local s, c, owed, first = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local product, p, now = a[2], product_keys(5), clock()
local me = me_from(a[1])
local mine, registered = claim(s, c, me)
if not mine then return {'superseded'} end
redis.call('HSET', s, 'b:' .. product, ARGV[2])
redis.call('HSETNX', first, 'at', now)
redis.call('HSET', first, 'bound', bind_mark())
redis.call('HDEL', first, 'left') -- it is here; where Redis loses this session's end, nobody is told that of one before
local known = redis.call('HMGET', first, 'at', 'document', 'user')
redis.call('ZREMRANGEBYSCORE', p.j, '-inf', now)
local content = page(p, owed, product, a[3], a[4], a[5], now, me, a[6])
return {'ok', now, known[1], known[2] or '', known[3] or '', content, redis.call('ZRANGE', p.j, 0, -1), owed_now(owed), registered and 1 or 0}
