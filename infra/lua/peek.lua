-- KEYS: the product's seven. ARGV: limit, bytes. Returns {now, page}: what is pending and has not expired, whoever had a notice of
-- it; of bodies about so many bytes (one always fits). Changes nothing.
local p, limit, bytes, now = product_keys(1), tonumber(ARGV[1]), tonumber(ARGV[2]), clock()
local items, size, more, from = {}, 0, 0, 0
while more == 0 do
  local found = redis.call('ZRANGE', p.q, from, from + limit, 'WITHSCORES')
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
      size = size + #body
    end
  end
  if #found < 2 * (limit + 1) then break end
  from = from + limit + 1
end
return {now, {redis.call('GET', p.n) or '0', more, items}}
