"""The workers: one file a worker, one shared runner. They meet on the brokers, never by import."""
