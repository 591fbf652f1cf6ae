-- KEYS: the product's seven. ARGV: ids. They and their receipts are in Kafka: what of them is pending stays so, and is not handed
-- over again.
local p = product_keys(1)
for _, id in ipairs(ARGV) do
  local body = redis.call('HGET', p.m, id)
  if body then
    local _, _, _, _, fallback = header(body)
    if fallback then redis.call('HSET', p.m, id .. '>', 1) end
  end
  redis.call('ZREM', p.d, due_member(p, id))
end
return 1
