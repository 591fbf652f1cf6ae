-- `connect.lua` and `bind.lua` in one step, for a client that asks for both at once (docs/adr/0031).
-- KEYS: as bind.lua. ARGV: as connect.lua, then msgpack {product, window, limit, bytes, whole}, bind.
-- Returns what connect.lua does, and of a session that was given what bind.lua does: {session}, or {session, bind}.
local time = redis.call('TIME')
local session = give_session(KEYS[1], KEYS[2], ARGV, in_ms(time))
if session[1] ~= 'ok' then return {session} end
local me = {generation = tonumber(session[2]), number = tonumber(session[3])}
return {session, bind_session(KEYS[1], KEYS[3], KEYS[4], product_keys(5), cmsgpack.unpack(ARGV[7]), ARGV[8], me, time, false)}
