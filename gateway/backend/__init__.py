"""What the room asks of the workers, in batches over NATS, and the lease by which they know it."""
