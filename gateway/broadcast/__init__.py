"""Broadcasts to the clients of this room: jobs, whom they mean, the walk, and the sender that writes the same to many."""
