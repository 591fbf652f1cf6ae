-- KEYS: session, counter. ARGV: room, epoch, connection, then the session that is to be taken over (generation, number) and until when, ms.
-- A session that another room has is taken over only from what the asker saw, and only as long as it waits for the answer: else a
-- request that was delayed would take the client from where it has gone since. Not so, nothing is changed, and it is told what is there.
-- Returns {status, generation, number, old room, old epoch, old generation, old number, now}.
return give_session(KEYS[1], KEYS[2], ARGV, clock())
