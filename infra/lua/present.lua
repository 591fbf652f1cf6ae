-- KEYS: a user's presence. ARGV: client, '1' it is there or '0', how long it is remembered, ms, 'ask' or 'known', and with 'known' the
-- clients beside it that are there. What the shard had before is not believed: then, asked, it is {'unknown'}.
-- Returns {'same'}, or {'tell', sequence, 1 online or 0}: the same until it was told. `#` is in no client's id.
local h, here = KEYS[1], ARGV[2] == '1'
local meta = redis.call('HMGET', h, '#generation', '#online', '#sequence', '#told')
if meta[1] ~= tostring(GENERATION) then
  if ARGV[4] == 'ask' then return {'unknown'} end
  redis.call('DEL', h)
  for i = 5, #ARGV do redis.call('HSET', h, ARGV[i], 1) end
  meta = {GENERATION, (#ARGV > 4 or not here) and '1' or '0', '0', '0'}
  redis.call('HSET', h, '#generation', GENERATION, '#online', meta[2], '#sequence', '0', '#told', '0')
end
if here then redis.call('HSET', h, ARGV[1], 1) else redis.call('HDEL', h, ARGV[1]) end
redis.call('PEXPIRE', h, ARGV[3])
local online = redis.call('HLEN', h) > 4 and '1' or '0'
if online == meta[2] then
  if meta[3] == meta[4] then return {'same'} end
  return {'tell', tonumber(meta[3]), tonumber(online)}
end
local sequence = math.max(tonumber(meta[3]) + 1, clock())
redis.call('HSET', h, '#online', online, '#sequence', string.format('%.0f', sequence))
return {'tell', sequence, tonumber(online)}
