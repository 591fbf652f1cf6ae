-- KEYS: first bind. Returns the user whose client this is in the product, '' for none. Behind the fence, as `members`.
return redis.call('HGET', KEYS[1], 'user') or ''
