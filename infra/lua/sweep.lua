-- KEYS: session. ARGV: room, epoch, generation, number. Removes the session if it is still this one; returns 1 if it was.
-- The counter stays: a room that was only stalled registers its clients again.
local cur = redis.call('HMGET', KEYS[1], unpack(SESSION))
if cur[3] == ARGV[1] and cur[4] == ARGV[2] and cur[1] == ARGV[3] and cur[2] == ARGV[4] then
  forget_session(KEYS[1], clock())
  return 1
end
return 0
