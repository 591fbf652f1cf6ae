"""Real NATS, Kafka and Redis servers for one machine: no root, no container, nothing installed but Python packages."""
