-- KEYS: session, counter, first bind. ARGV: msgpack {me, product}. Returns {status, user before, mark of the bind},
-- with a mark that no bind has where it is superseded.
local a = cmsgpack.unpack(ARGV[1])
local me = me_from(a[1])
local cur = redis.call('HMGET', KEYS[1], unpack(SESSION))
-- A session that is missing has no bind to forget; a newer one makes this one superseded, and so does a counter that has passed it.
-- What the registry knows of the bind goes when the caller has told Kafka (`leave`); without its document a bind that comes
-- meanwhile is written anew.
if cur[1] then
  local generation, number = tonumber(cur[1]), tonumber(cur[2])
  if generation > me.generation or (generation == me.generation and number > me.number) then return {'superseded', '', 'none'} end
  if number == me.number then redis.call('HDEL', KEYS[1], 'b:' .. a[2]) end
elseif tonumber(redis.call('GET', KEYS[2]) or '0') > me.number then
  return {'superseded', '', 'none'}
end
redis.call('HDEL', KEYS[3], 'document')
local known = redis.call('HMGET', KEYS[3], 'user', 'bound')
return {'ok', known[1] or '', known[2] or ''}
