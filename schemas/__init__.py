"""The contract that every process meets on: names, records and codes.

Imports the standard library and fastavro only, so that a producer which knows nothing but Kafka can use it.
"""
