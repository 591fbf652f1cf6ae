"""What operators see and change: rooms, products, policy, lists, queues, revocations; and its audit."""
