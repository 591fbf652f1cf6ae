-- KEYS: told. ARGV: how long it is remembered where nobody is online, ms; then for each product six: its name, session (generation,
-- number), offset of the record, state ('1' online, '0' the session is over, '2' it is unbound) and user. What was told of a later
-- record stays: its teller took over from this one.
-- A field is `<generation of the shard> <generation> <number> <offset> <state> <user>`.
local told = KEYS[1]
for i = 2, #ARGV, 6 do
  local g, n, o = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  local before = redis.call('HGET', told, ARGV[i]) or '0 -1 -1 -1 '
  local bg, bn, bo = string.match(before, '^%d+ (%-?%d+) (%-?%d+) (%-?%d+) ')
  bg, bn, bo = tonumber(bg), tonumber(bn), tonumber(bo)
  if g > bg or (g == bg and (n > bn or (n == bn and o >= bo))) then
    redis.call('HSET', told, ARGV[i], GENERATION .. ' ' .. table.concat(ARGV, ' ', i + 1, i + 5))
  end
end
for _, field in ipairs(redis.call('HVALS', told)) do
  if string.find(field, '^%d+ %-?%d+ %-?%d+ %-?%d+ 1 ') then return redis.call('PERSIST', told) end
end
return redis.call('PEXPIRE', told, ARGV[1])
