-- KEYS: session, owed, then the product's seven. ARGV: msgpack {product, cap, messages}, a message: {id, class, expires_ms, collapse}, and
-- for one that may be a notice the place of its payload in ARGV (0: in the body), else false or nothing, and for one with a
-- fallback when that is due, ms (0: it was handed over before); then the messages' bodies, then the payloads.
-- Returns {session fields, bind, now, n of each message (0: it is not to be hinted), owed}.
local a = cmsgpack.unpack(ARGV[1])
local s, owed, p, now = KEYS[1], KEYS[2], product_keys(3), clock()
local product, cap, numbers, ended = a[1], a[2], {}, false

local function evict()
  local highest = tonumber(redis.call('ZREVRANGE', p.q, 0, 0, 'WITHSCORES')[2])
  local class = math.floor(highest / CLASS)
  local oldest = redis.call('ZRANGEBYSCORE', p.q, string.format('%.0f', class * CLASS), '+inf', 'LIMIT', 0, 1)[1]
  end_message(p, owed, product, oldest, 'evicted', now)
  ended = true
end

local function add(message, body)
  local id, class, expires, collapse = message[1], message[2], message[3], message[4]
  local score = redis.call('ZSCORE', p.q, id)
  if score then return score % CLASS end  -- stored before, perhaps not hinted: rooms bear a repeat
  if redis.call('ZSCORE', p.t, id) then return 0 end
  if expires <= now then
    end_message(p, owed, product, id, 'expired', now)
    return 0
  end
  if collapse ~= '' then
    local before = redis.call('HGET', p.k, collapse)
    if before then
      end_message(p, owed, product, before, 'replaced', now)
      ended = true
    end
    redis.call('HSET', p.k, collapse, id)
  end
  local n = redis.call('INCR', p.n)
  redis.call('ZADD', p.q, string.format('%.0f', class * CLASS + n), id)
  local notice, place, due = message[5] and 'n' or '', message[5] or 0, message[6]
  local flags = due and notice .. 'f' or notice
  redis.call('HSET', p.m, id, flags .. string.format('%.0f', expires) .. '|' .. collapse .. '|' .. body)
  if place > 0 then redis.call('HSET', p.m, id .. '/', ARGV[place]) end
  if due == 0 then
    redis.call('HSET', p.m, id .. '>', 1)
  elseif due then
    redis.call('ZADD', p.d, string.format('%.0f', due), due_member(p, id))
  end
  while redis.call('ZCARD', p.q) > cap do evict() end
  return n
end

for i, message in ipairs(a[3]) do numbers[i] = add(message, ARGV[i + 1]) end
-- What a later message of the batch replaced or evicted is settled: no hint.
for i, message in ipairs(ended and a[3] or {}) do
  if numbers[i] > 0 and not redis.call('ZSCORE', p.q, message[1]) then numbers[i] = 0 end
end
local bind = redis.call('HGET', s, 'b:' .. product)
return {redis.call('HMGET', s, unpack(SESSION)), bind, now, numbers, owed_now(owed)}
