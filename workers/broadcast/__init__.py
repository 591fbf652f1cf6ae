"""Broadcasts: their owner (`owner.py`), a job's life and pace, and its kinds: to rooms (`run.py`), to a list (`listrun.py`)."""
