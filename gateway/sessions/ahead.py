"""What many clients' handling needs of memory, asked for side by side.

With ten thousand clients next to nothing of one is in the processor's caches when its turn comes: a message would wait for
memory again and again. Who has many to handle looks at all of them first, one step for all and then the next:
in so narrow a loop the processor waits for several at once (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.client import BindState, Client
    from gateway.sessions.delivery import Delivery
    from gateway.sessions.lifetime import Lifetime


def fetch(sessions: Sequence[Lifetime | None]) -> None:
    """These are handled next, one after the other. Nothing is changed: what is read is all that this is for."""
    deliveries: list[Delivery] = []
    for session in sessions:
        if session is not None and session.delivery is not None:
            deliveries.append(session.delivery)
    clients: list[Client] = [delivery.client for delivery in deliveries]
    binds: list[BindState] = [client.binds[0] for client in clients if client.binds]
    read: list[object] = [client.shell for client in clients]
    read += [client.acks for client in clients]
    read += [bind.settled for bind in binds]
