"""The coordinator: what devices send, into Kafka (`ingress`), and from there to the products' services and webhooks (`egress`),
and what these say, back to the device (`replies`)."""
