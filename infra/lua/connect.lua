-- KEYS: session, counter. ARGV: room, epoch, connection, then the session that is to be taken over (generation, number) and until when, ms.
-- A session that another room has is taken over only from what the asker saw, and only as long as it waits for the answer: else a
-- request that was delayed would take the client from where it has gone since. Not so, nothing is changed, and it is told what is there.
-- Returns {status, generation, number, old room, old epoch, old generation, old number, now}.
local s, c, now = KEYS[1], KEYS[2], clock()
local room, epoch, connection = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local cur = redis.call('HMGET', s, unpack(SESSION))
if cur[1] and cur[3] == room and tonumber(cur[4]) == epoch then
  if tonumber(cur[5]) == connection then return {'ok', cur[1], cur[2], '', 0, 0, 0, now} end
  if tonumber(cur[5]) > connection then return {'superseded', 0, 0, '', 0, 0, 0, now} end
elseif cur[1] and not (cur[1] == ARGV[4] and cur[2] == ARGV[5] and now < tonumber(ARGV[6])) then
  return {'elsewhere', cur[1], cur[2], '', 0, 0, 0, now}
end
local number = redis.call('INCR', c)
begin_session(s, {generation = GENERATION, number = number, room = room, epoch = epoch, connection = connection})
return {'ok', GENERATION, number, cur[3] or '', cur[4] or 0, cur[1] or 0, cur[2] or 0, now}
