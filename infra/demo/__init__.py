"""`pushctl demo`: the whole system under a thousand devices, with a room killed on the way, and the ledger at the end."""
