-- KEYS: session, counter, owed, first bind, then the product's seven. ARGV: msgpack {me, {product, window, limit, bytes, whole}}, bind.
-- The user and the document are written by the caller, once Kafka has them: a repeat still sees what was before. `bound` marks
-- this bind, so that the end of one before it takes nothing away.
-- Returns {status, now, first bind, known document, user before, page, settled jobs, owed, 1 if the session had to be registered}.
local a = cmsgpack.unpack(ARGV[1])
local me = me_from(a[1])
local mine, registered = claim(KEYS[1], KEYS[2], me)
if not mine then return {'superseded'} end
return bind_session(KEYS[1], KEYS[3], KEYS[4], product_keys(5), a[2], ARGV[2], me, redis.call('TIME'), registered)
