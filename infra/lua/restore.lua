-- KEYS: session, counter, owed, then seven a product. ARGV: msgpack {online, {room, epoch, -1, generation, number}, products, jobs}.
-- A session as `push.status` tells it last: registered if it is newer than what is here; if it is over, so is what is here, unless
-- that is newer: its end may be in a tail that was lost, too. Idempotent.
local a = cmsgpack.unpack(ARGV[1])
local s, c, me, now = KEYS[1], KEYS[2], me_from(a[2]), clock()
save_jobs(load_products(a[3], 4), a[4], now)
local cur = redis.call('HMGET', s, 'generation', 'number')
local generation, number = tonumber(cur[1] or '-1'), tonumber(cur[2] or '-1')
local newer = me.generation > generation or (me.generation == generation and me.number > number)
local same = me.generation == generation and me.number == number
if newer and a[1] then register(s, c, me) end
if (newer or same) and not a[1] then redis.call('DEL', s) end
if tonumber(redis.call('GET', c) or '0') < me.number then redis.call('SET', c, me.number) end
return 1
