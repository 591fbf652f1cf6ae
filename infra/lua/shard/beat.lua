-- KEYS: a shard's marker. ARGV: run id, generation, then partition (or partition:product), offset, …: all of it below the offset is stored.
-- What survives a crash is a prefix of what was written, so the beat that survives says what does (docs/adr/0007). Returns 1, or 0
-- where the shard is not open in this generation.
local m = KEYS[1]
local known = redis.call('HMGET', m, 'run_id', 'generation', 'state')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] or known[3] ~= 'open' then return 0 end
local t = redis.call('TIME')
redis.call('HSET', m, 'beat', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)))
for i = 3, #ARGV, 2 do
  local before = redis.call('HGET', m, 'p:' .. ARGV[i])
  if not before or tonumber(before) < tonumber(ARGV[i + 1]) then redis.call('HSET', m, 'p:' .. ARGV[i], ARGV[i + 1]) end
end
return 1
