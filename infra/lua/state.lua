-- KEYS: the product's seven. ARGV: id. How one message stands; changes nothing.
-- Returns {now, when it expires if it is pending (else 0), whether another channel has it, its score among the settled ids or ''}.
local p, id, now = product_keys(1), ARGV[1], clock()
local body = redis.call('HGET', p.m, id)
if not body then return {now, 0, 0, redis.call('ZSCORE', p.t, id) or ''} end
local expires = header(body)
local handed = redis.call('HEXISTS', p.m, id .. '>') == 1 and not redis.call('ZSCORE', p.d, due_member(p, id))
return {now, expires, handed and 1 or 0, ''}
