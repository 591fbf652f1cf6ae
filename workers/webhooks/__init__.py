"""Webhooks: a product's events, posted to its endpoints, signed, in order per key, and kept until they are taken (ADR 22).

`events` has what is told and the bytes of a request, `signing` its signature, `sender` one request and what it came to, `circuit`
whether an endpoint is asked; `outbox` tells events at once or keeps them, `waiting` is the index of those that are kept, with the
first of each key in `heads`; `shelf` reads it from Kafka, `lanes` tell them.
"""

from workers.webhooks.events import Event
from workers.webhooks.lanes import Lanes
from workers.webhooks.outbox import Outbox
from workers.webhooks.sender import Reply, Sender
from workers.webhooks.shelf import Shelf
from workers.webhooks.waiting import Waiting

__all__ = ["Event", "Lanes", "Outbox", "Reply", "Sender", "Shelf", "Waiting"]
