-- KEYS: session, owed, then seven a product. ARGV: msgpack {me, products, acks, jobs, noticed}; an ack is {product place, id, its
-- state if that is not acked}.
-- A sync that only tells: the session is looked at and left as it is. Returns {status}, or {'ok', owed, whether it is missing}.
local a = cmsgpack.unpack(ARGV[1])
local owed, now, me = KEYS[2], clock(), me_from(a[1])
local products = load_products(a[2], 3)
apply_acks(products, a[3], owed, now) -- whoever has the session: their receipts are in Kafka
local latest, missing = compare(KEYS[1], me)
if not latest then return {'superseded'} end
save_jobs(products, a[4], now)
mark_noticed(products, a[5], me)
return {'ok', owed_now(owed), missing and 1 or 0}
