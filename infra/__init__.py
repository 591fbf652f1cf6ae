"""What every process stands on: settings, adapters for Kafka, NATS and Redis, the keeper, the supervisor, local brokers."""

VERSION = "0.1.0"
"""Of every process; the same as the wheel's, which a test holds it to."""
