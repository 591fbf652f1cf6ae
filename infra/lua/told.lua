-- KEYS: told. Returns {the present generation, product, what was told, …}.
return {GENERATION, redis.call('HGETALL', KEYS[1])}
