-- KEYS: a user's set. Read behind the fence: a set that is folded in part would lose a message for the clients that are missing.
return redis.call('SMEMBERS', KEYS[1])
