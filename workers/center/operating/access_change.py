"""Changing the document `access`: made from what is in the bucket now, audited, and written unless somebody was faster."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from typing import Final

import structlog

from infra.access import MAX_CLIENTS, MAX_NETWORKS, MAX_PATTERNS
from infra.bus import MAX_VALUE
from infra.documents import ACCESS, Access, Rules
from infra.journal import Entry
from infra.keeper import Unreadable
from schemas import names
from schemas.broadcasts import NO_PRODUCT, Audit
from workers.center.operating.attempts import until_written
from workers.center.ports import AccessChange, AccessDocument, Producer
from workers.center.web.problems import Problem, bad_input, shown

SUBJECT: Final = "access"
MOST: Final = {"networks": MAX_NETWORKS, "clients": MAX_CLIENTS, "patterns": MAX_PATTERNS}
LOOPBACK: Final = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))
WIDE: Final = {4: 8, 6: 16}
"""A denied network with a shorter prefix is more than any one attacker has."""
UNREADABLE: Final = (
    'the document in the keeper\'s bucket does not parse, and rooms go by the last good one; "confirm": true puts that one '
    "in its place, as this center knows it, with the change"
)

log = structlog.get_logger("center")


def changed(before: Access, change: AccessChange) -> Access:
    """The document after a change; raises a Problem: 404 for what is to be removed and is not there, 400 beyond a bound."""
    rules = rules_of(before, change.target)
    merged = {kind: _merged(kind, rules, change) for kind in MOST}
    update = merged["networks"] if change.target == "uncounted" else Rules(**merged)
    after = before.model_copy(update={change.target: update})
    added = [*change.add.networks, *change.add.clients, *change.add.patterns]
    if added and (size := len(after.model_dump_json().encode())) > MAX_VALUE:
        raise bad_input("add", added[-1], f"all lists together may have {MAX_VALUE} bytes as JSON, and with it have {size}")
    return after


def _merged(kind: str, rules: Rules, change: AccessChange) -> tuple[str, ...]:
    """Its entries of one kind, in their order, what is new at the end."""
    where = f"{change.target}.{kind}"
    entries = dict.fromkeys(getattr(rules, kind))
    for entry in dict.fromkeys(getattr(change.remove, kind)):
        if entry not in entries:
            raise Problem("unknown-entry", f"{where} does not have {shown(entry)}; nothing was changed, GET /v1/access shows it")
        del entries[entry]
    found = tuple(entries | dict.fromkeys(getattr(change.add, kind)))
    if len(found) > MOST[kind]:
        raise bad_input(f"add.{kind}", found[MOST[kind]], f"{where} may have {MOST[kind]} entries, and is full before it")
    return found


def rules_of(access: Access, target: str) -> Rules:
    """One of the three lists."""
    if target == "uncounted":
        return Rules(networks=access.uncounted)
    return access.allow if target == "allow" else access.deny


def shuts_out(before: Access, after: Access) -> list[str]:
    """Why a change shuts out more than it names; empty if it does not."""
    reasons = []
    if after.allow.networks and not before.allow.networks:
        reasons.append("allow has no networks now; with this nobody is admitted from anywhere but the networks in it")
    if _ids(after.allow) and not _ids(before.allow):
        reasons.append("allow means no clients now; with this nobody is admitted but the clients that it means")
    new = set(after.deny.networks) - set(before.deny.networks)
    reasons += [f"deny {entry} {why}" for entry in after.deny.networks if entry in new and (why := _too_much(entry))]
    every = [entry for entry in after.deny.patterns if entry not in before.deny.patterns and not entry.strip("*?")]
    return reasons + [f"deny {entry} means clients whatever their ids are" for entry in every]


def _ids(rules: Rules) -> bool:
    return bool(rules.clients or rules.patterns)


def _too_much(entry: str) -> str:
    network = ipaddress.ip_network(entry)
    if not network.prefixlen:
        return f"is everybody who comes by IPv{network.version}"
    if any(network.version == own.version and network.overlaps(own) for own in LOOPBACK):
        return "covers loopback: this machine's own clients and balancers"
    return f"is a very large part of IPv{network.version}" if network.prefixlen < WIDE[network.version] else ""


def list_text(access: Access, target: str) -> str:
    """A list as the audit shows it before a change."""
    rules = rules_of(access, target)
    return ", ".join(f"{len(getattr(rules, kind))} {kind}" for kind in MOST if kind == "networks" or target != "uncounted")


def change_text(before: Access, after: Access, target: str) -> str:
    """A list as the audit shows it after a change: what came and what went, entry by entry."""
    old, new = (_entries(rules_of(access, target)) for access in (before, after))
    came, went = [f"+{entry}" for entry in new if entry not in old], [f"-{entry}" for entry in old if entry not in new]
    return f"{list_text(after, target)}: {' '.join(came + went)}"


def _entries(rules: Rules) -> dict[str, None]:
    return dict.fromkeys([*rules.networks, *rules.clients, *rules.patterns])


class AccessWriter:
    """`workers.center.ports.AccessLists` on the keeper's bucket and Kafka."""

    def __init__(self, keeper: AccessDocument, journal: Producer) -> None:
        self._keeper = keeper
        self._journal = journal
        self._turn = asyncio.Lock()

    async def change(self, change: AccessChange) -> Access:
        """See the port. What changes nothing is not audited; an audited change that then fails is answered as failed, and
        one that was overtaken has a record for each attempt."""
        async with self._turn:  # those who ask the same center at once need not overtake each other
            return await until_written(lambda: self._attempt(change), "the access lists were")

    async def _attempt(self, change: AccessChange) -> Access | None:
        """The document after the change; None where somebody else was faster."""
        before, revision, readable = await self._read(confirmed=change.confirm)
        after = changed(before, change)
        reasons = shuts_out(before, after)
        if reasons and not change.confirm:
            raise Problem("confirm-needed", f'{"; ".join(reasons)}. Nothing was changed; "confirm": true does it')
        if after == before and readable:
            return after
        record = Audit(
            product=NO_PRODUCT,
            subject=SUBJECT,
            action=change.target,
            by=change.by,
            at_ms=int(time.time() * 1000),
            before=list_text(before, change.target),
            after=change_text(before, after, change.target),
            reason=change.reason,
        )
        await self._journal.produce([Entry(names.AUDIT, NO_PRODUCT, record)])
        return after if await self._keeper.replace(ACCESS, after, revision) else None

    async def _read(self, *, confirmed: bool) -> tuple[Access, int, bool]:
        """The document in the bucket, its revision, and whether it is readable. What stands for it where it is not, or never was
        there: what this process knows."""
        try:
            found, revision = await self._keeper.latest(ACCESS)
        except Unreadable as error:
            if not confirmed:
                raise Problem("confirm-needed", UNREADABLE) from None
            return self._keeper.access, error.revision, False
        assert found is None or isinstance(found, Access)
        if found is None:
            return (Access() if revision else self._keeper.access), revision, True
        return found, revision, True
