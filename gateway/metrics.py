"""What a room counts. No label ever holds a client, a user or a token's text."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from infra.tally import Tallies

connections = Gauge("longwire_gateway_connections", "Open sockets, authenticated or not")
clients = Gauge("longwire_gateway_clients", "Clients with a session in this room")
compiled = Gauge("longwire_gateway_compiled", "1: the room runs compiled by mypyc; 0: interpreted")
accepted = Tallies("longwire_gateway_accepted_total", "Sockets accepted").labels()
turned_away = Counter("longwire_gateway_turned_away_total", "Sockets reset before anything was read", ["reason"])
memory = Gauge("longwire_gateway_memory_ratio", "Memory of the process by what it may have")
paced = Counter("longwire_gateway_paced_total", "Pauses of a connection that published too fast")
refused = Counter("longwire_gateway_refused_total", "CONNECTs refused", ["reason"])
refreshed = Counter("longwire_gateway_refreshes_total", "New tokens by AUTH", ["outcome"])
binds_refused = Counter("longwire_gateway_binds_refused_total", "Filters of a SUBSCRIBE refused", ["code"])
away = Counter("longwire_gateway_flash_total", "Sessions kept for a client that lost its socket")
returned = Counter("longwire_gateway_flash_returns_total", "Clients that came back to a kept session")
closed = Counter("longwire_gateway_closed_total", "Connections ended", ["reason"])
hints = Counter("longwire_gateway_hints_total", "Hints by outcome", ["outcome"])
written = Tallies("longwire_gateway_written_total", "Unicast messages written", "qos")
notices = Counter("longwire_gateway_notices_total", "Notices written: their bodies are to be pulled")
pulls = Counter("longwire_gateway_pulls_total", "Pulls by outcome", ["outcome"])
settled = Tallies("longwire_gateway_settled_total", "Unicast messages settled in the room", "state")
unknown_acks = Counter("longwire_gateway_unknown_acks_total", "PUBACKs for no packet of ours")
fanout_settled = Tallies("longwire_fanout_settled_total", "Broadcasts settled", "state")
syncs = Tallies("longwire_gateway_syncs_total", "Syncs asked of the saver").labels()
uplinks = Tallies("longwire_gateway_uplinks_total", "Uplinks by outcome", "outcome")
batches = Counter("longwire_gateway_batches_total", "Batches sent", ["subject"])
retries = Counter("longwire_gateway_retries_total", "Items asked again", ["subject", "reason"])
lost = Counter("longwire_gateway_lost_total", "Items given up after their time or because a queue was full", ["subject"])
