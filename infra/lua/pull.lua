-- KEYS: session, then the product's seven. ARGV: msgpack {generation, number, id}; a number of 0 is nobody's session (HTTP).
-- One pending message with its payload; changes nothing. Returns {status}, or {'ok', now, n, body, payload apart}.
local a = cmsgpack.unpack(ARGV[1])
local p, id, now = product_keys(2), a[3], clock()
local cur = redis.call('HMGET', KEYS[1], 'generation', 'number')
local generation, number = tonumber(cur[1] or '-1'), tonumber(cur[2] or '-1')
if a[2] > 0 and (generation > a[1] or (generation == a[1] and number > a[2])) then return {'superseded'} end
local body = redis.call('HGET', p.m, id)
if not body or header(body) <= now then return {'gone'} end
local n = redis.call('ZSCORE', p.q, id) % CLASS
return {'ok', now, string.format('%.0f', n), body, redis.call('HGET', p.m, id .. '/')}
