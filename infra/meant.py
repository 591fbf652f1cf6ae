"""Whom a content means, asked of the durable registry (`push.clients`): of clients that are in no room now, or of all.

The rooms ask their binds the same (gateway/broadcast/eligibility.py); both stand on `infra/segments.py` and
`schemas/partition.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from infra import segments
from infra.wire import JobContent, Target
from schemas import names
from schemas.broadcasts import Broadcast
from schemas.codes import WHOLE
from schemas.partition import Shares
from schemas.records import ClientRecord


def target_of(content: Broadcast) -> Target:
    """Whom it means."""
    return msgspec.convert(content, Target, from_attributes=True)


def of_registry(content: JobContent) -> Callable[[ClientRecord], bool]:
    """Is a client of the product meant: by its groups, its segment and the sample, and had it bound before the start?

    Raises BadSegment.
    """
    groups, segment = frozenset(content.groups), segments.compile(content.segment) if content.segment else None
    shares = Shares(content.sample_seed) if content.sample_bp < WHOLE else None

    def meant(record: ClientRecord) -> bool:
        bind = record.bind
        if not content.include_new and content.started_ms and bind.first_bind_ms > content.started_ms:
            return False
        joined = groups.intersection(bind.groups)
        if groups and (joined != groups if content.every_group else not joined):
            return False
        if shares is not None and shares.of(names.client_key(record.realm, record.client)) >= content.sample_bp:
            return False
        return segment is None or segment.matches(bind.attrs, frozenset(bind.groups))

    return meant
