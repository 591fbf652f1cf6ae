"""`GET /v1/dispatch`: where a device connects. Devices ask it, so it needs no API key and shows addresses only.

`route` (HTTP) → `query` (what is asked) and `askers` (by whom, from which region) → `board` (which rooms take clients, out of
leases, labels and `failures`) → `choice` (who gets which of them; pure).
"""
