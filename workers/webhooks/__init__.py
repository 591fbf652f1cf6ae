"""Webhooks: a product's events, posted to its endpoints, signed, in order per key, and kept until they are taken.

`events` has what is told and the bytes of a request, `signing` its signature.
"""

from workers.webhooks.events import Event

__all__ = ["Event"]
