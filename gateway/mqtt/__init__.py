"""Bytes to packets and packets to bytes: MQTT 5, and MQTT 3.1.1 in its terms. Pure."""
