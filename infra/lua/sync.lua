-- KEYS: session, counter, owed, then seven a product. ARGV: msgpack {me, products, windows, limits, bytes, acks, jobs, noticed, whole},
-- then binds;
-- an ack is {product place, id, its state if that is not acked}.
-- `products` names every product whose keys are given; windows, limits and binds are given for the first of them.
-- Returns {status}, or {'ok', now, pages, owed, whether the session had to be registered}.
local a = cmsgpack.unpack(ARGV[1])
local s, c, owed, now = KEYS[1], KEYS[2], KEYS[3], clock()
local products = load_products(a[2], 4)
apply_acks(products, a[6], owed, now) -- whoever has the session: their receipts are in Kafka
local me = me_from(a[1])
local latest, registered = claim(s, c, me)
if not latest then return {'superseded'} end
save_jobs(products, a[7], now)
mark_noticed(products, a[8], me)
local pages = {}
for i, window in ipairs(a[3]) do
  local p, bind = products[i], ARGV[i + 1]
  if redis.call('HGET', s, 'b:' .. p.name) ~= bind then redis.call('HSET', s, 'b:' .. p.name, bind) end
  pages[i] = page(p, owed, p.name, window, a[4][i], a[5], now, me, a[9])
end
return {'ok', now, pages, owed_now(owed), registered and 1 or 0}
