-- KEYS: session, counter, owed, first bind, then the product's seven. ARGV: msgpack {me, product, window, limit, bytes, whole}, bind.
-- The user and the document are written by the caller, once Kafka has them: a repeat still sees what was before. `bound` marks
-- this bind, so that the end of one before it takes nothing away.
-- Returns {status, now, first bind, known document, user before, page, settled jobs, owed, 1 if the session had to be registered}.
local a = cmsgpack.unpack(ARGV[1])
local s, c, owed, first = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local product, p, now = a[2], product_keys(5), in_ms(time)
local me = me_from(a[1])
local mine, registered = claim(s, c, me)
if not mine then return {'superseded'} end
redis.call('HSET', s, 'b:' .. product, ARGV[2])
local known = redis.call('HMGET', first, 'at', 'document', 'user', 'left')
local at, mark = known[1] or now, time[1] .. '.' .. time[2] -- no two scripts of a client run in the same microsecond
redis.call('HSET', first, 'at', at, 'bound', mark)
if known[4] then redis.call('HDEL', first, 'left') end -- it is here; where Redis loses this session's end, nobody is told that of one before
local jobs = redis.call('ZRANGEBYSCORE', p.j, '(' .. string.format('%.0f', now), '+inf')
local content = page(p, owed, product, a[3], a[4], a[5], now, me, a[6])
return {'ok', now, at, known[2] or '', known[3] or '', content, jobs, owed_now(owed), registered and 1 or 0}
