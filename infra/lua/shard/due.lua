-- KEYS: a server's due slots. Returns its time, ms, and the slots in which something is due by then.
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
return {now, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)}
