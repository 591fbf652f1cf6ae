-- KEYS: a shard's marker. ARGV: the server's run id, a generation from Kafka. The shard was emptied, restarted or failed over: close
-- it, and begin a new generation. Who comes first decides; returns {generation, kind}.
local m = KEYS[1]
local known = redis.call('HMGET', m, 'run_id', 'generation', 'kind', 'beat')
if known[1] == ARGV[1] then return {known[2], known[3]} end
local fields = redis.call('HKEYS', m)
for _, name in ipairs(fields) do
  if string.find(name, '^f:') or string.find(name, '^r:') then redis.call('HDEL', m, name) end
end
local generation = math.max(tonumber(ARGV[2]), tonumber(known[2] or '0') + 1)
local kind = known[4] and 'rewound' or 'emptied' -- one that never opened has no beat, so nothing in it counts
local t = redis.call('TIME')
redis.call('HSET', m, 'run_id', ARGV[1], 'generation', generation, 'kind', kind, 'state', 'folding', 'since', known[4] or '0',
  'began', string.format('%.0f', t[1] * 1000 + math.floor(t[2] / 1000)))
return {tostring(generation), kind}
