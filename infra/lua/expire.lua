-- KEYS: owed, then the product's seven. ARGV: product. Ends what has expired of a queue that nobody touches; returns what is owed.
local owed, p, now, from = KEYS[1], product_keys(2), clock(), 0
while true do
  local found, removed = redis.call('ZRANGE', p.q, from, from + 99), 0
  for _, id in ipairs(found) do
    local expires = header(redis.call('HGET', p.m, id))
    if expires <= now then
      end_message(p, owed, ARGV[1], id, 'expired', now)
      removed = removed + 1
    end
  end
  if #found < 100 then break end
  from = from + 100 - removed
end
return owed_now(owed)
