"""Messages to a client, a user or a group, and what became of them."""
