"""Delivery: `push.messages` and the products' own queues → the register, and a hint to the client's room (`delivery.py`)."""
