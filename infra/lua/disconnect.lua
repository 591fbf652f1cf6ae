-- KEYS: session, counter, owed, then six a product. ARGV: msgpack {me, products, acks, jobs}.
-- Acks and settled jobs count whoever has the session now; it is removed only if it is still this one.
local a = cmsgpack.unpack(ARGV[1])
local s, owed, now, me = KEYS[1], KEYS[3], clock(), me_from(a[1])
local products = load_products(a[2], 4)
apply_acks(products, a[3], owed, now)
save_jobs(products, a[4], now)
local cur = redis.call('HMGET', s, unpack(SESSION))
local mine = cur[1] and tonumber(cur[1]) == me.generation and tonumber(cur[2]) == me.number
  and cur[3] == me.room and tonumber(cur[4]) == me.epoch
-- The counter passes this session's number, so a late sync or bind of it can't register it again.
if mine then
  redis.call('DEL', s)
  redis.call('INCR', KEYS[2])
end
return {mine and 'ok' or 'superseded', owed_now(owed)}
