"""A user is online while a client is that its product was told to be connected: the first one and the last one are news.

A user's clients are in several partitions, so several consumers come to the same user: what was told of it is in one place, and
whoever changes it says what is news. A `sequence` orders what two of them tell at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from infra.register.told import Presence, User
from schemas import names
from schemas.codes import EventType
from workers.callbacks.presence import Change
from workers.callbacks.telling import event_id
from workers.webhooks import Event


class Index(Protocol):
    """What was told of users (infra.register.told.ToldIndex)."""

    async def present(self, user: User, client: str, *, there: bool) -> Presence | None:
        """This client came or went: what is to be told, until `presented`; None where nothing changes by it."""

    async def presented(self, user: User, told: Presence) -> None:
        """It was told."""


@dataclass(slots=True)
class UserNews:
    """What is to be told of users, and after that remembered."""

    events: list[Event] = field(default_factory=list)
    last: dict[User, Presence] = field(default_factory=dict)


async def news_of(index: Index, changes: Iterable[Change]) -> UserNews:
    """Users side by side, each one's changes in order; raises RegisterDown: then ask again."""
    steps: dict[User, list[tuple[Change, bool]]] = {}
    for change in changes:
        realm, _ = names.split_client_key(change.key)
        for user, there in ((change.left, False), (change.arrived, True)):
            if user:
                steps.setdefault(User(realm, change.product, user), []).append((change, there))
    news = UserNews()
    await asyncio.gather(*(_one(index, user, each, news) for user, each in steps.items()))
    return news


async def _one(index: Index, user: User, steps: Sequence[tuple[Change, bool]], news: UserNews) -> None:
    for change, there in steps:
        _, client = names.split_client_key(change.key)
        found = await index.present(user, client, there=there)
        if found is not None:
            news.events.append(_event(user, client, change, found))
            news.last[user] = found


async def remember(index: Index, news: UserNews) -> None:
    """All of it was told; raises RegisterDown."""
    await asyncio.gather(*(index.presented(user, last) for user, last in news.last.items()))


def _event(user: User, client: str, change: Change, found: Presence) -> Event:
    kind = EventType.USER_ONLINE if found.online else EventType.USER_OFFLINE
    return Event(
        event_id(kind, user.realm, user.product, user.name, found.sequence),
        kind,
        user.product,
        f"user:{user.realm}:{user.name}",
        change.record.event.at_ms,
        {"realm": user.realm, "user": user.name, "client": client, "sequence": found.sequence},
    )
