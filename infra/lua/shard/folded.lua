-- KEYS: a shard's marker. ARGV: run id, generation, what is folded (a partition, or partition:product of an own queue), number of
-- partitions, offset below which its messages are folded, then the products that have an own queue. With the last of all these the
-- shard is open. The position is written here, too: where it stays quiet no beat has one (a worker that starts has handled nothing),
-- and the next loss would begin at its first message. Returns 'open', 'folding', or 'other' where the generation is another one now.
local m = KEYS[1]
local known = redis.call('HMGET', m, 'run_id', 'generation', 'state')
if known[1] ~= ARGV[1] or known[2] ~= ARGV[2] then return 'other' end
if known[3] == 'open' then return 'open' end
local position = redis.call('HGET', m, 'p:' .. ARGV[3])
if not position or tonumber(position) < tonumber(ARGV[5]) then redis.call('HSET', m, 'p:' .. ARGV[3], ARGV[5]) end
redis.call('HSET', m, 'f:' .. ARGV[3], ARGV[2])
for p = 0, tonumber(ARGV[4]) - 1 do
  if redis.call('HGET', m, 'f:' .. p) ~= ARGV[2] then return 'folding' end
  for i = 6, #ARGV do
    if redis.call('HGET', m, 'f:' .. p .. ':' .. ARGV[i]) ~= ARGV[2] then return 'folding' end
  end
end
local t = redis.call('TIME')
local now = string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000))
redis.call('HSET', m, 'state', 'open', 'opened', now, 'beat', now)
return 'open'
