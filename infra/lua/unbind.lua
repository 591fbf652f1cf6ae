-- KEYS: session, counter, first bind. ARGV: msgpack {me, product}. Returns {status, user before}.
local a = cmsgpack.unpack(ARGV[1])
local me = me_from(a[1])
local cur = redis.call('HMGET', KEYS[1], unpack(SESSION))
-- A session that is missing has no bind to forget; only a newer one makes this one superseded. What the registry knows of the
-- bind goes when the caller has told Kafka.
if cur[1] then
  local generation, number = tonumber(cur[1]), tonumber(cur[2])
  if generation > me.generation or (generation == me.generation and number > me.number) then return {'superseded', ''} end
  if number == me.number then redis.call('HDEL', KEYS[1], 'b:' .. a[2]) end
end
return {'ok', redis.call('HGET', KEYS[3], 'user') or ''}
