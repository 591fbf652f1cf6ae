"""The workers: a folder a worker, on what they share (`runner.py`, `responder.py`). They meet on the brokers, never by import."""
