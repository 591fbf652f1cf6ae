-- Shared by every script of the register. All keys of a script carry one hash tag, {realm:client}, so they lie in one slot.
-- A product's keys come as a table: q pending, m bodies, n store number, t settled ids, k collapse index, j settled jobs, and d,
-- the due-index of the client's slot, which it shares with the slot's other clients (docs/adr/0011).
-- A body is `<expires_ms>|<collapse key>|<bytes>`, with an `n` before it where it may be a notice: then the field `<id>/` of m is
-- the payload, if that lies apart, and `<id>!` the session that had the notice. An `f` before it: it has a fallback, and is in d;
-- the field `<id>>` says that it was claimed, and once it has left d that it was handed over. A pending score is class * 2^48 + n.
-- A settled id's score is ms * 16 + how it was settled: no byte more than the time alone (docs/adr/0024).
-- GENERATION is the register's, set by the line that infra/register/shards.py puts before this text: the hash of a script is the
-- fence, a process that does not know the present generation has no script to run (docs/adr/0007).

local CLASS = 281474976710656
local SETTLED_MS, SETTLED_MIN, SETTLED_TTL = 3600000, 128, 172800000
local SETTLED_AS = {acked = 1, written = 2, rejected = 3, expired = 4, replaced = 5, evicted = 6, dead = 7}
local HANDED_OVER = ' handed over'

local function in_ms(time)
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function clock()
  return in_ms(redis.call('TIME'))
end

local function product_keys(first)
  return {
    q = KEYS[first], m = KEYS[first + 1], n = KEYS[first + 2], t = KEYS[first + 3], k = KEYS[first + 4], j = KEYS[first + 5],
    d = KEYS[first + 6],
  }
end

local function header(body)
  local _, last, notice, fallback, expires, collapse = string.find(body, '^(n?)(f?)(%d+)|([^|]*)|')
  return tonumber(expires), collapse, last, notice == 'n', fallback == 'f'
end

local function due_member(p, id)
  return p.q .. ' ' .. id
end

-- Settled ids are remembered for an hour at least, and the last 128. A score below 10^13 is a bare time of before, and not counted.
local function trim_settled(p, now)
  local excess = redis.call('ZCARD', p.t) - SETTLED_MIN
  if excess > 0 then excess = math.min(excess, redis.call('ZCOUNT', p.t, 1e13, (now - SETTLED_MS) * 16)) end
  if excess > 0 then redis.call('ZREMRANGEBYRANK', p.t, 0, excess - 1) end
  if redis.call('PTTL', p.t) < SETTLED_TTL - SETTLED_MS then redis.call('PEXPIRE', p.t, SETTLED_TTL) end
end

local function settle(p, id, now, state)
  redis.call('ZADD', p.t, now * 16 + SETTLED_AS[state], id)
  trim_settled(p, now)
end

-- Take an id out of what is pending; returns whether it had been handed over.
local function remove(p, id)
  local body = redis.call('HGET', p.m, id)
  if not body then return false end
  local _, collapse, _, notice, fallback = header(body)
  if collapse ~= '' and redis.call('HGET', p.k, collapse) == id then redis.call('HDEL', p.k, collapse) end
  redis.call('HDEL', p.m, id)
  if notice then redis.call('HDEL', p.m, id .. '/', id .. '!') end
  redis.call('ZREM', p.q, id)
  if not fallback then return false end
  redis.call('ZREM', p.d, due_member(p, id))
  return redis.call('HDEL', p.m, id .. '>') == 1
end

-- A script itself ends a message: its receipt is owed to Kafka until the caller says that it is there.
local function end_message(p, owed, product, id, state, now)
  local handed = remove(p, id)
  settle(p, id, now, state)
  redis.call('HSET', owed, product .. ' ' .. id, handed and state .. HANDED_OVER or state)
end

-- An id's receipt is in Kafka. Of an ack (a state) for what had been handed over a second receipt is owed, which says so: the first
-- was produced before anybody looked. Of anything else nothing is owed any more. Bears a repeat.
local function receipted(p, owed, product, id, state)
  local name, handed = product .. ' ' .. id, remove(p, id)
  local due = redis.call('HGET', owed, name)
  if handed or (due and string.find(due, HANDED_OVER, 1, true)) then
    if state then redis.call('HSET', owed, name, state .. HANDED_OVER) end
  elseif due then
    redis.call('HDEL', owed, name)
  end
end

-- A session, as a mark beside a message.
local function tag(me)
  return string.format('%.0f:%.0f', me.generation, me.number)
end

-- The client has these notices: {product place, id}. The body stays pending until it is settled.
local function mark_noticed(products, noticed, me)
  for _, each in ipairs(noticed) do
    local p = products[each[1]]
    if redis.call('HEXISTS', p.m, each[2]) == 1 then redis.call('HSET', p.m, each[2] .. '!', tag(me)) end
  end
end

-- The first pending messages that are not in `window` (a list of ids): {n, more, n1, id1, body1, n2, …}.
-- What has expired on the way is ended, and what session `me` had a notice of is left out. At most `limit` messages and about
-- `bytes` bytes (one always fits). With `whole` nothing is left out, and what lies apart comes as a fourth: {id1, payload1, …}.
local function page(p, owed, product, window, limit, bytes, now, me, whole)
  local held = {}
  for _, id in ipairs(window) do held[id] = true end
  local items, apart, size, more, from = {}, {}, 0, 0, 0
  local step = limit + #window + 8
  while more == 0 do
    local found = redis.call('ZRANGE', p.q, from, from + step - 1, 'WITHSCORES')
    local removed = 0
    for i = 1, #found, 2 do
      local id = found[i]
      if not held[id] then
        local body = redis.call('HGET', p.m, id)
        local expires, _, _, notice = header(body)
        local payload = whole and notice and redis.call('HGET', p.m, id .. '/')
        local more_bytes = #body + (payload and #payload or 0)
        if expires <= now then
          end_message(p, owed, product, id, 'expired', now)
          removed = removed + 1
        elseif notice and not whole and redis.call('HGET', p.m, id .. '!') == tag(me) then
          -- it waits for the client to pull it
        elseif #items >= 3 * limit or (size > 0 and size + more_bytes > bytes) then
          more = 1
          break
        else
          items[#items + 1] = found[i + 1] % CLASS
          items[#items + 1] = id
          items[#items + 1] = body
          size = size + more_bytes
          if payload then
            apart[#apart + 1] = id
            apart[#apart + 1] = payload
          end
        end
      end
    end
    if #found < 2 * step then break end
    from = from + step - removed
  end
  for i = 1, #items, 3 do items[i] = string.format('%.0f', items[i]) end
  return {redis.call('GET', p.n) or '0', more, items, apart}
end

-- What is owed, as a flat list of `<product> <id>`, state with its detail. Bounded: the rest comes with the next script.
local function owed_now(owed)
  local count = redis.call('HLEN', owed)
  if count == 0 then return {} end
  if count <= 128 then return redis.call('HGETALL', owed) end
  return redis.call('HRANDFIELD', owed, 128, 'WITHVALUES')
end

local SESSION = {'generation', 'number', 'room', 'epoch', 'connection'}

local function begin_session(s, me)
  redis.call('DEL', s)
  redis.call('HSET', s, 'generation', me.generation, 'number', me.number, 'room', me.room, 'epoch', me.epoch, 'connection', me.connection)
end

-- `connect.lua` says what it asks for and what it returns.
local function give_session(s, c, a, now)
  local room, epoch, connection = a[1], tonumber(a[2]), tonumber(a[3])
  local cur = redis.call('HMGET', s, unpack(SESSION))
  if cur[1] and cur[3] == room and tonumber(cur[4]) == epoch then
    if tonumber(cur[5]) == connection then return {'ok', cur[1], cur[2], '', 0, 0, 0, now} end
    if tonumber(cur[5]) > connection then return {'superseded', 0, 0, '', 0, 0, 0, now} end
  elseif cur[1] and not (cur[1] == a[4] and cur[2] == a[5] and now < tonumber(a[6])) then
    return {'elsewhere', cur[1], cur[2], '', 0, 0, 0, now}
  end
  local number = redis.call('INCR', c)
  begin_session(s, {generation = GENERATION, number = number, room = room, epoch = epoch, connection = connection})
  return {'ok', GENERATION, number, cur[3] or '', cur[4] or 0, cur[1] or 0, cur[2] or 0, now}
end

-- The same for a number that was given before: the counter is there, or passes it.
local function register(s, c, me)
  begin_session(s, me)
  if tonumber(redis.call('GET', c) or '0') < me.number then redis.call('SET', c, me.number) end
end

-- A session is over: its binds remember when it left, each beside what the registry knows of it (`f:{realm:client}:<product>`, in
-- the session's own slot; which ones, only the session knows). A bind that is gone is not made again by that.
local function forget_session(s, now)
  for _, field in ipairs(redis.call('HKEYS', s)) do
    local product = string.match(field, '^b:(.*)')
    local first = product and 'f' .. string.sub(s, 2) .. ':' .. product
    if first and redis.call('HEXISTS', first, 'at') == 1 then redis.call('HSET', first, 'left', now) end
  end
  redis.call('DEL', s)
end

-- Is this session the client's latest? A missing one is registered again, an older one replaced; the same number from another
-- room loses, and so does a session whose number the counter has passed. A session that was folded from Kafka has no connection
-- (-1) until its room claims it. Returns whether it is, and whether it had to be registered.
local function claim(s, c, me)
  local cur = redis.call('HMGET', s, unpack(SESSION))
  if not cur[1] then
    if tonumber(redis.call('GET', c) or '0') > me.number then return false, false end
    register(s, c, me)
    return true, true
  end
  local generation, number = tonumber(cur[1]), tonumber(cur[2])
  if generation == me.generation and number == me.number then
    if cur[3] ~= me.room or tonumber(cur[4]) ~= me.epoch then return false, false end
    if cur[5] == '-1' then redis.call('HSET', s, 'connection', me.connection) end
    return cur[5] == '-1' or tonumber(cur[5]) == me.connection, false
  end
  if generation > me.generation or (generation == me.generation and number > me.number) then return false, false end
  register(s, c, me)
  return true, true
end

-- The same without a change: a newer session wins, and anything but this one itself counts as missing.
local function compare(s, me)
  local cur = redis.call('HMGET', s, unpack(SESSION))
  local generation, number = tonumber(cur[1] or '-1'), tonumber(cur[2] or '-1')
  if generation > me.generation or (generation == me.generation and number > me.number) then return false, false end
  local same = generation == me.generation and number == me.number and cur[3] == me.room and tonumber(cur[4]) == me.epoch
  return true, not same or tonumber(cur[5]) ~= me.connection
end

-- Bind a session that is the client's latest; `a`: {product, window, limit, bytes, whole}. `bind.lua` says what is returned.
local function bind_session(s, owed, first, p, a, packed, me, time, registered)
  local product, now = a[1], in_ms(time)
  redis.call('HSET', s, 'b:' .. product, packed)
  local known = redis.call('HMGET', first, 'at', 'document', 'user', 'left')
  local at, mark = known[1] or now, time[1] .. '.' .. time[2] -- no two scripts of a client run in the same microsecond
  redis.call('HSET', first, 'at', at, 'bound', mark)
  if known[4] then redis.call('HDEL', first, 'left') end -- it is here; where Redis loses this session's end, nobody is told that of one before
  local jobs = redis.call('ZRANGEBYSCORE', p.j, '(' .. string.format('%.0f', now), '+inf')
  local content = page(p, owed, product, a[2], a[3], a[4], now, me, a[5])
  return {'ok', now, at, known[2] or '', known[3] or '', content, jobs, owed_now(owed), registered and 1 or 0}
end

local function me_from(a)
  return {room = a[1], epoch = a[2], connection = a[3], generation = a[4], number = a[5]}
end

-- Acks whose receipts are in Kafka: {product place, id, state if it is not acked}.
local function apply_acks(products, acks, owed, now)
  for _, ack in ipairs(acks) do
    local p = products[ack[1]]
    local state = ack[3] or 'acked'
    receipted(p, owed, p.name, ack[2], state)
    settle(p, ack[2], now, state)
  end
end

-- Settled broadcasts: {product place, number, expires_in_ms}. What can no longer be active is forgotten.
local function save_jobs(products, jobs, now)
  for _, job in ipairs(jobs) do
    local p = products[job[1]]
    redis.call('ZADD', p.j, now + job[3], job[2])
    redis.call('ZREMRANGEBYSCORE', p.j, '-inf', now)
    redis.call('PEXPIREAT', p.j, math.floor(tonumber(redis.call('ZRANGE', p.j, -1, -1, 'WITHSCORES')[2])) + 60000)
  end
end

local function load_products(list, first)
  local products = {}
  for i, name in ipairs(list) do
    products[i] = product_keys(first + (i - 1) * 7)
    products[i].name = name
  end
  return products
end
