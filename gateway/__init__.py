"""One room: holds connections and speaks NATS, nothing else. It can be killed at any time."""
