-- KEYS: owed, first bind, then the product's seven. ARGV: msgpack {product, ids, ms}. Claims what is due of these: marked, and due
-- again after so many ms unless `handed` is told before. What has expired is ended; what is not pending leaves the index.
-- Returns {now, user, {id, body, payload apart, …}, owed}.
local a = cmsgpack.unpack(ARGV[1])
local owed, p, now, found = KEYS[1], product_keys(3), clock(), {}
for _, id in ipairs(a[2]) do
  local body, due = redis.call('HGET', p.m, id), tonumber(redis.call('ZSCORE', p.d, due_member(p, id)) or math.huge)
  if not body then
    redis.call('ZREM', p.d, due_member(p, id))
  elseif due > now then
    -- another has claimed it, or done it
  elseif header(body) <= now then
    end_message(p, owed, a[1], id, 'expired', now)
  else
    redis.call('ZADD', p.d, string.format('%.0f', now + a[3]), due_member(p, id))
    redis.call('HSET', p.m, id .. '>', 1)
    found[#found + 1] = id
    found[#found + 1] = body
    found[#found + 1] = redis.call('HGET', p.m, id .. '/')
  end
end
return {now, redis.call('HGET', KEYS[2], 'user') or '', found, owed_now(owed)}
