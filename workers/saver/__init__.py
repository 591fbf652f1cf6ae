"""The saver answers rooms (`saver.py`), ends what nobody touches (`sweep.py`), and folds Redis from Kafka (`recovery.py`)."""
