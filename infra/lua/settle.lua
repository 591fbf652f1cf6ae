-- KEYS: owed, then the product's six. ARGV: msgpack {product, ids, times in ms}: receipts that are in Kafka, in order.
-- Takes them out of what is pending and owed, and remembers them as settled, at their own times.
local a = cmsgpack.unpack(ARGV[1])
local owed, p, now = KEYS[1], product_keys(2), clock()
for i, id in ipairs(a[2]) do
  remove(p, id)
  redis.call('ZADD', p.t, a[3][i], id)
  redis.call('HDEL', owed, a[1] .. ' ' .. id)
end
trim_settled(p, now)
return #a[2]
