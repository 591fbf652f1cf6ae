-- GCRA: take up to ARGV[3] requests of KEYS[1], which has ARGV[1] a second, and ARGV[2] at once. Returns how many, and, where
-- none, the ms until there is one. The key holds the time, ms, at which the bucket is full again.
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local interval, most = 1000 / ARGV[1], tonumber(ARGV[2])
local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0))
local left = math.floor(most - (full - now) / interval + 0.000001)
if left < 1 then
  return {0, math.ceil(full - now - (most - 1) * interval)}
end
local taken = math.min(left, tonumber(ARGV[3]))
full = full + taken * interval
redis.call('SET', KEYS[1], string.format('%.3f', full), 'PX', math.ceil(full - now) + 1)
return {taken, 0}
