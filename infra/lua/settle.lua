-- KEYS: owed, then the product's seven. ARGV: msgpack {product, ids, times in ms, states, told}: receipts that are in Kafka, in order.
-- Takes them out of what is pending and owed, and remembers them as settled, at their own times. `told` is false for acks that are
-- told for the first time. Returns what is owed.
local a = cmsgpack.unpack(ARGV[1])
local owed, p, now = KEYS[1], product_keys(2), clock()
for i, id in ipairs(a[2]) do
  receipted(p, owed, a[1], id, not a[5] and a[4][i])
  redis.call('ZADD', p.t, a[3][i] * 16 + SETTLED_AS[a[4][i]], id)
end
trim_settled(p, now)
return owed_now(owed)
