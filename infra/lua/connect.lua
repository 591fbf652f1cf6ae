-- KEYS: session, counter. ARGV: room, epoch, connection.
-- Returns {status, generation, number, old room, old epoch, old generation, old number}.
local s, c = KEYS[1], KEYS[2]
local room, epoch, connection = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local cur = redis.call('HMGET', s, unpack(SESSION))
if cur[1] and cur[3] == room and tonumber(cur[4]) == epoch then
  if tonumber(cur[5]) == connection then return {'ok', cur[1], cur[2], '', 0, 0, 0} end
  if tonumber(cur[5]) > connection then return {'superseded', 0, 0, '', 0, 0, 0} end
end
local number = redis.call('INCR', c)
register(s, c, {generation = GENERATION, number = number, room = room, epoch = epoch, connection = connection})
return {'ok', GENERATION, number, cur[3] or '', cur[4] or 0, cur[1] or 0, cur[2] or 0}
