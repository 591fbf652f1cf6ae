-- KEYS: a client's settled jobs of a product. ARGV: a job's number. Returns 1 where it has settled that job. Read behind the
-- fence: a set that is not folded yet would say no.
return redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
