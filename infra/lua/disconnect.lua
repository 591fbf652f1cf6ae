-- KEYS: session, counter, owed, guard, then seven a product. ARGV: msgpack {me, products, acks, jobs, unacked, fruitless, acked, parking}.
-- Acks and settled jobs count whoever has the session now; it is removed only if it is still this one.
-- `unacked`: {product place, id}; `parking`: {connections, ms}. Returns {status, owed, what is to be parked: place, id, body, payload apart, …}.
local a = cmsgpack.unpack(ARGV[1])
local s, owed, guard, now, me = KEYS[1], KEYS[3], KEYS[4], clock(), me_from(a[1])
local products = load_products(a[2], 5)
apply_acks(products, a[3], owed, now)
save_jobs(products, a[4], now)

-- The never-ack guard: per message that was written, in how many connections in a row nothing at all was acknowledged, and since
-- when. A connection that acknowledged anything clears it. What reaches both bounds is named, and settled by the caller as dead.
-- `last` is the session that was counted last: a repeat of its end names what it did, and counts nothing.
local function park()
  local before = {}
  local flat = redis.call('HGETALL', guard)
  for i = 1, #flat, 2 do before[flat[i]] = flat[i + 1] end
  redis.call('DEL', guard)
  if a[7] then return {} end
  local parked, more = {}, before.last == tag(me) and 0 or a[6]
  redis.call('HSET', guard, 'last', tag(me))
  for _, entry in ipairs(a[5]) do
    local p = products[entry[1]]
    local body = redis.call('HGET', p.m, entry[2])
    if body then
      local name = p.name .. ' ' .. entry[2]
      local count, since = string.match(before[name] or '', '^(%d+) (%d+)$')
      count, since = tonumber(count or '0') + more, tonumber(since or now)
      redis.call('HSET', guard, name, string.format('%.0f %.0f', count, since))
      if count >= a[8][1] and now - since >= a[8][2] then
        parked[#parked + 1] = entry[1]
        parked[#parked + 1] = entry[2]
        parked[#parked + 1] = body
        parked[#parked + 1] = redis.call('HGET', p.m, entry[2] .. '/')
      end
    end
  end
  redis.call('PEXPIRE', guard, math.max(SETTLED_TTL, 2 * a[8][2]))
  return parked
end

local parked = {}
if a[6] > 0 or a[7] then parked = park() end
local cur = redis.call('HMGET', s, unpack(SESSION))
local mine = cur[1] and tonumber(cur[1]) == me.generation and tonumber(cur[2]) == me.number
  and cur[3] == me.room and tonumber(cur[4]) == me.epoch
-- The counter passes this session's number, so a late sync or bind of it can't register it again.
if mine then
  forget_session(s, now)
  redis.call('INCR', KEYS[2])
end
return {mine and 'ok' or 'superseded', owed_now(owed), parked}
