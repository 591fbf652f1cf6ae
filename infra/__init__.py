"""What every process stands on: settings, adapters for Kafka, NATS and Redis, the keeper, the supervisor, local brokers."""
