"""Status callbacks: what products asked to be told of clients, users and messages (docs/adr/0023).

`asked` knows who asks for what, `presence` decides from `push.status` what is news (pure), `status` runs it, `users` makes a
user's first and last client of it, `receipts` tells what became of messages, by `push.receipts`.
"""
