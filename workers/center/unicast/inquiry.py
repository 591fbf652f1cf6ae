"""What became of one message, for each of its clients: from its record, the register and receipts (docs/adr/0024).

The register knows what is pending, and how it was settled if that was lately. What it does not know is in receipts: each end has
its own there before the register forgets it. So the register is asked first, and receipts are read up to where they end after
that: a message that neither knows was not delivered yet when the register was asked. Where reading hit its bound, nothing is
concluded from what was not found: the state is `unknown`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from infra.register import RegisterDown, Standing
from schemas import names
from schemas.codes import State
from schemas.records import PushMessage, Receipt
from workers.center.ports import Parts
from workers.center.unicast.sightings import Asked, Receipts

MARGIN_MS: Final = 10_000
"""How far the clocks of Kafka and Redis may differ, with what passes between a receipt and the script that settles."""
ENDS: Final = frozenset({State.ACKED, State.WRITTEN, State.REJECTED, State.EXPIRED, State.REPLACED, State.EVICTED, State.DEAD})
ARRIVED: Final = frozenset({State.ACKED, State.WRITTEN})
"""A later receipt that says otherwise (its room told the ack twice, a limit ended it meanwhile) does not undo these."""
DETAILED: Final = frozenset({State.REJECTED, State.DEAD})
"""Ends with a reason, which only the receipt has."""
NOT_STORED: Final = "QoS 0: it is never stored, and has no receipt"

StateName = Literal[
    "accepted", "moved", "expanded", "stored", "acked", "written", "rejected", "expired", "replaced", "evicted", "dead", "unknown"
]


@dataclass(frozen=True, slots=True)
class Event:
    """What a receipt says, and when (ms, by the clock of the worker that wrote it)."""

    state: str
    at_ms: int
    detail: str | None


@dataclass(slots=True)
class ClientState:
    """How the message stands with one client. `handed_over`: another channel has it as well; `events`: the receipts that were
    read."""

    client: str
    state: StateName
    at_ms: int | None = None
    detail: str | None = None
    expires_ms: int | None = None
    handed_over: bool = False
    events: list[Event] = field(default_factory=list)


@dataclass(slots=True)
class Outcome:
    """What became of a message. `total`: its clients, of which at most the first that its expansion names are shown; `whole`: all
    that there is was looked at."""

    id: str
    product: str
    realm: str
    state: StateName = "unknown"
    user: str | None = None
    qos: int | None = None
    accepted_ms: int | None = None
    at_ms: int | None = None
    detail: str | None = None
    as_of_ms: int = 0
    clients: list[ClientState] = field(default_factory=list)
    total: int | None = None
    whole: bool = True


async def inquire(parts: Parts, asked: Asked, *, trace: bool = False) -> Outcome | bool:
    """What became of a message, with all that receipts say of it if `trace`; a bool if there is none: was everything looked at?

    Raises JournalDown, RegisterDown, or a Problem while others ask.
    """
    sighting = await parts.log.find(asked)
    if sighting.message is not None:
        outcome = _outcome(sighting.message, sighting.accepted_ms)
        if sighting.message.user is not None:
            return await _of_user(parts, outcome, sighting.message.user, trace=trace)
        return await _of_client(parts, outcome, sighting.message.client or "", trace=trace)
    if asked.client is None:
        return sighting.whole
    product, whole = await _product_of(parts, asked, asked.client)
    if product is None:
        return sighting.whole and whole
    outcome = Outcome(asked.id, product, asked.realm or names.DEFAULT_REALM, whole=sighting.whole)
    return await _of_client(parts, outcome, asked.client, trace=trace, since=min(asked.times_ms, default=None))


def _outcome(message: PushMessage, accepted_ms: int) -> Outcome:
    return Outcome(message.id, message.product, message.realm, user=message.user, qos=message.qos, accepted_ms=accepted_ms)


async def _product_of(parts: Parts, asked: Asked, client: str) -> tuple[str | None, bool]:
    """Whose message of a client it is, by the register, else by receipts; and whether everything was looked at."""
    key, products = names.client_key(asked.realm or names.DEFAULT_REALM, client), sorted(asked.products)
    standings = await parts.standings.standing([(key, product, asked.id) for product in products])
    for product, standing in zip(products, standings, strict=True):
        if standing.expires_ms is not None or standing.settled_ms is not None:
            return product, True

    def its(found: Sequence[Receipt]) -> list[Receipt]:
        return [each for each in found if each.product in asked.products and each.realm == (asked.realm or names.DEFAULT_REALM)]

    since = min(asked.times_ms, default=None)
    wanted = {client: None if since is None else since - MARGIN_MS}
    receipts = await parts.log.receipts(asked.id, wanted, lambda found: bool(its(found)))
    found = its(receipts.found)
    return (found[0].product if found else None), receipts.whole


async def _of_client(parts: Parts, outcome: Outcome, client: str, *, trace: bool, since: int | None = None) -> Outcome:
    """A client's message: its state is the client's. `since` (ms): where it is not known when it was accepted."""
    [found] = await _states(parts, outcome, [client], since=outcome.accepted_ms or since, trace=trace)
    outcome.clients, outcome.total = [found], 1
    outcome.state, outcome.at_ms, outcome.detail = found.state, found.at_ms, found.detail
    return outcome


async def _of_user(parts: Parts, outcome: Outcome, user: str, *, trace: bool) -> Outcome:
    """A user's message: expanded to clients, of which each has its own state; or not yet; or there were none."""
    since = (outcome.accepted_ms or 0) - MARGIN_MS
    outcome.as_of_ms = _now_ms()

    def decisive(found: Iterable[Receipt]) -> list[Receipt]:
        mine = [each for each in found if _is_of(each, outcome) and each.client in (user, "")]
        return [each for each in mine if each.state in (State.EXPANDED, State.DEAD)]

    def expansion(found: Iterable[Receipt]) -> Receipt | None:
        return next((each for each in decisive(found) if each.state == State.EXPANDED), None)

    wanted = {user: since, outcome.product: since}
    receipts = await parts.log.receipts(outcome.id, wanted, lambda found: expansion(found) is not None)
    found = decisive(receipts.found)
    last = expansion(found) or next(iter(found), None)  # a dead letter may have been sent again
    outcome.whole = receipts.whole
    if last is None:
        moved = any(_is_of(each, outcome) and each.state == State.MOVED for each in receipts.found)
        outcome.state = ("moved" if moved else "accepted") if receipts.whole else "unknown"
        return outcome
    outcome.state, outcome.at_ms = ("expanded", last.at_ms) if last.state == State.EXPANDED else ("dead", last.at_ms)
    if last.state == State.DEAD:
        outcome.detail = last.detail
        return outcome
    outcome.total = last.count
    clients = (last.detail or "").split(" ")[1:]
    outcome.clients = await _states(parts, outcome, clients, since=outcome.accepted_ms, trace=trace)
    return outcome


async def _states(parts: Parts, outcome: Outcome, clients: Sequence[str], *, since: int | None, trace: bool) -> list[ClientState]:
    """The state of each of these clients; raises RegisterDown where it can't be told without the register."""
    asked_ms = _now_ms()
    standings = await _standings(parts, outcome, clients)
    wanted = {
        client: at - MARGIN_MS if (at := _since(standing, since, trace=trace)) is not None else None
        for client, standing in zip(clients, standings, strict=True)
        if trace or _is_open(standing)
    }
    parked = {client for client, standing in zip(clients, standings, strict=True) if standing and standing.state == State.DEAD}

    def enough(found: Sequence[Receipt]) -> bool:
        ended = {each.client for each in found if _is_of(each, outcome) and _is_final(each, parked)}
        return wanted.keys() <= ended

    receipts = await parts.log.receipts(outcome.id, wanted, enough) if wanted else Receipts([], True)
    outcome.whole &= receipts.whole or enough(receipts.found)
    outcome.as_of_ms = min((standing.now_ms for standing in standings if standing is not None), default=asked_ms)
    events: dict[str, list[Receipt]] = {}
    for receipt in receipts.found:
        if _is_of(receipt, outcome):
            events.setdefault(receipt.client, []).append(receipt)
    return [
        _state(client, standing, events.get(client, []), qos=outcome.qos, whole=receipts.whole)
        for client, standing in zip(clients, standings, strict=True)
    ]


async def _standings(parts: Parts, outcome: Outcome, clients: Sequence[str]) -> list[Standing | None]:
    """By the register; None for all where it does not answer, or is being folded."""
    items = [(names.client_key(outcome.realm, client), outcome.product, outcome.id) for client in clients]
    try:
        return list(await parts.standings.standing(items))
    except RegisterDown:
        return [None] * len(clients)


def _is_open(standing: Standing | None) -> bool:
    """Have receipts to be read for it?"""
    if standing is None:
        return True
    if standing.expires_ms is not None:
        return False
    return standing.state is None or standing.state in DETAILED


def _since(standing: Standing | None, since: int | None, *, trace: bool) -> int | None:
    """From when on receipts are of interest, ms."""
    if standing is not None and standing.settled_ms is not None and not (trace and since is not None):
        return standing.settled_ms
    return since


def _is_final(receipt: Receipt, parked: set[str]) -> bool:
    """Does nothing come after it? A dead letter may be sent again, unless the register has it as settled."""
    return receipt.state in ENDS and (receipt.state != State.DEAD or receipt.client in parked)


def _is_of(receipt: Receipt, outcome: Outcome) -> bool:
    return receipt.product == outcome.product and receipt.realm == outcome.realm


def _state(client: str, standing: Standing | None, receipts: Sequence[Receipt], *, qos: int | None, whole: bool) -> ClientState:
    """One client's state by what is known; raises RegisterDown if only the register could tell."""
    events = [Event(str(each.state), each.at_ms, each.detail) for each in receipts]
    handed = any(each.state == State.FALLBACK for each in receipts) or (standing is not None and standing.handed)
    found = ClientState(client, "unknown", handed_over=handed, events=events)
    end, pending = _end(receipts), standing is not None and standing.expires_ms is not None
    if end is not None and (end.state in ARRIVED or not pending):
        found.state, found.at_ms, found.detail = _name(end.state), end.at_ms, end.detail
    elif standing is None:
        raise RegisterDown("it has no receipt that ends it, and the register can't be asked whether it is pending")
    elif standing.expires_ms is not None:
        over = standing.expires_ms <= standing.now_ms
        found.state, found.at_ms = ("expired", standing.expires_ms) if over else ("stored", None)
        found.expires_ms = standing.expires_ms
    elif standing.settled_ms is not None:
        found.state, found.at_ms = "unknown" if standing.state is None else _name(standing.state), standing.settled_ms
    elif qos == 0:
        found.detail = NOT_STORED
    elif whole:
        found.state = "moved" if any(each.state == State.MOVED for each in receipts) else "accepted"
    return found


def _end(receipts: Sequence[Receipt]) -> Receipt | None:
    """The receipt that counts: the first that says it arrived, else the last."""
    ends = [each for each in receipts if each.state in ENDS]
    arrived = [each for each in ends if each.state in ARRIVED]
    return next(iter(arrived or reversed(ends)), None)


_NAMES: Final[Mapping[State, StateName]] = {
    State.ACKED: "acked",
    State.WRITTEN: "written",
    State.REJECTED: "rejected",
    State.EXPIRED: "expired",
    State.REPLACED: "replaced",
    State.EVICTED: "evicted",
    State.DEAD: "dead",
}


def _name(state: State) -> StateName:
    return _NAMES[state]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
