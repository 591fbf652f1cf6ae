-- KEYS: told. ARGV: products that do not ask any more.
return redis.call('HDEL', KEYS[1], unpack(ARGV))
