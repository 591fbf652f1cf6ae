-- KEYS: the product's seven. ARGV: limit, bytes, the score behind which it begins. Returns {now, page, the last item's score}: what is
-- pending and has not expired, whoever had a notice of it; of bodies about so many bytes (one always fits). Changes nothing.
local p, limit, bytes, after, now = product_keys(1), tonumber(ARGV[1]), tonumber(ARGV[2]), '(' .. ARGV[3], clock()
local items, size, more, from, last = {}, 0, 0, 0, ARGV[3]
while more == 0 do
  local found = redis.call('ZRANGEBYSCORE', p.q, after, '+inf', 'WITHSCORES', 'LIMIT', from, limit + 1)
  for i = 1, #found, 2 do
    local body = redis.call('HGET', p.m, found[i])
    if header(body) > now then
      if #items >= 3 * limit or (size > 0 and size + #body > bytes) then
        more = 1
        break
      end
      items[#items + 1] = string.format('%.0f', found[i + 1] % CLASS)
      items[#items + 1] = found[i]
      items[#items + 1] = body
      last = found[i + 1]
      size = size + #body
    end
  end
  if #found < 2 * (limit + 1) then break end
  from = from + limit + 1
end
return {now, {redis.call('GET', p.n) or '0', more, items}, last}
