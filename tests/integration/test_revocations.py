"""Revocations and key sets on a real NATS: made in one process, true in another, and kept when the store is wiped."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from core import TopicReader, eventually, unique

from infra.bus import Bus
from infra.documents import Issuer, issuer_key, key_set_key
from infra.journal import Journal
from infra.keeper import Keeper
from infra.revocations import Revocations
from infra.revoked import Revocation, Revoked
from infra.settings import OutsideSettings, Settings
from infra.tokens import BadToken, Verifier
from schemas import names
from schemas.broadcasts import Audit
from tests.unit.gateway_world import claims
from tests.unit.token_world import pair
from workers.center.operating.revoker import Revoker
from workers.center.web.problems import Problem
from workers.jwks import KeySets
from workers.outside import Outside


@asynccontextmanager
async def a_bus(settings: Settings) -> AsyncIterator[Bus]:
    bus = Bus(settings.nats, name="test-tokens", version="0.0.1")
    await bus.start()
    try:
        yield bus
    finally:
        await bus.stop()


@asynccontextmanager
async def following(bus: Bus, disk: Path) -> AsyncIterator[Revocations]:
    found = Revocations(bus, disk=disk)
    await found.start()
    try:
        yield found
    finally:
        await found.stop()


def revocation(client: str, *, lasts: float = 600.0) -> Revocation:
    now = time.time()
    return Revocation(kind="client", scope="main", subject=client, before=now, until=now + lasts, by="ann", reason="lost")


async def test_given_a_revocation_when_made_and_lifted_then_others_follow_and_it_is_audited(
    settings: Settings, tmp_path: Path
) -> None:
    journal = Journal(settings.kafka, name="test-tokens")
    await journal.start()
    try:
        async with (
            a_bus(settings) as bus,
            following(bus, tmp_path / "center") as here,
            following(bus, tmp_path / "room") as there,
            TopicReader(settings, names.AUDIT).open() as audit,
        ):
            changes: list[int] = []
            there.on_change.append(lambda: changes.append(1))
            table, entry = Revoker(bus, journal, here.revoked), revocation(unique("c"))
            await table.revoke(entry)
            assert entry.id in here.revoked.entries
            await eventually(lambda: there.revoked.entries.get(entry.id) == entry, what="the revocation elsewhere")
            assert changes
            longer = await table.revoke(revocation(entry.subject, lasts=60))
            assert (longer.until, longer.before > entry.before) == (entry.until, True)
            await table.lift(entry.id, by="bob", reason=None)
            await eventually(lambda: entry.id not in there.revoked.entries, what="its end")
            with pytest.raises(Problem, match="no revocation"):
                await table.lift(entry.id, by="bob", reason=None)

            def audits() -> list[Audit]:
                return [item for item in audit.records if isinstance(item, Audit) and entry.subject in item.before + item.after]

            found = await eventually(lambda: audits() if len(audits()) == 3 else [], what="the audit")
    finally:
        await journal.stop()
    assert [(item.action, item.by) for item in found] == [("revoke", "ann"), ("revoke", "ann"), ("lift", "bob")]
    assert (found[0].before, found[2].after, found[0].reason) == ("none", "none", "lost")


async def test_given_centers_that_do_not_know_of_each_other_when_both_revoke_then_the_longer_one_holds(
    settings: Settings,
) -> None:
    journal = Journal(settings.kafka, name="test-tokens")
    await journal.start()
    try:
        async with a_bus(settings) as bus:
            bucket = await bus.bucket(names.KV_REVOCATIONS)
            for order in ((60.0, 600.0), (600.0, 60.0), "at once"):
                one, two = (Revoker(bus, journal, Revoked()) for _ in range(2))
                subject = unique("c")
                entries = [revocation(subject, lasts=lasts) for lasts in (order if order != "at once" else (600.0, 60.0))]
                if order == "at once":
                    found = await asyncio.gather(one.revoke(entries[0]), two.revoke(entries[1]))
                else:
                    found = [await one.revoke(entries[0]), await two.revoke(entries[1])]
                longest = max(entry.until for entry in entries)
                stored = msgspec.json.decode((await bucket.get(entries[0].id)).value or b"", type=Revocation)
                assert (stored.until, stored.before) == (longest, max(entry.before for entry in entries)), order
                assert longest in {each.until for each in found}
                await two.lift(entries[0].id, by="ann", reason=None)
                again = await one.revoke(revocation(subject, lasts=30.0))
                assert again.until < longest, "what was lifted is over"
                await two.lift(entries[0].id, by="ann", reason=None)
    finally:
        await journal.stop()


async def test_given_a_wiped_store_or_a_restart_when_looked_at_then_what_was_revoked_still_is(
    settings: Settings, tmp_path: Path
) -> None:
    async with a_bus(settings) as bus:
        entry = revocation(unique("c"))
        bucket = await bus.bucket(names.KV_REVOCATIONS)
        async with following(bus, tmp_path) as room:
            await bucket.put(entry.id, json.dumps({name: getattr(entry, name) for name in entry.__struct_fields__}).encode())
            await bucket.put("nonsense", b"{}")
            await eventually(lambda: entry.id in room.revoked.entries)
            await bus._client.jetstream().delete_key_value(names.KV_REVOCATIONS)
            room._kept._mirror._again.set()
            await asyncio.sleep(2)
            assert entry.id in room.revoked.entries
        async with following(bus, tmp_path) as again:
            assert list(again.revoked.entries) == [entry.id]
            again.revoked.put("x", None)


async def test_given_an_expired_revocation_when_another_is_made_then_it_leaves_no_trace_and_a_renewed_one_stays(
    settings: Settings, tmp_path: Path
) -> None:
    journal = Journal(settings.kafka, name="test-tokens")
    await journal.start()
    try:
        async with a_bus(settings) as bus, following(bus, tmp_path) as here:
            soon, renewed = revocation(unique("c"), lasts=0.5), revocation(unique("c"), lasts=0.5)
            late = Revoker(bus, journal, here.revoked, wall=lambda: time.time() + 5)
            table = Revoker(bus, journal, here.revoked)
            await table.revoke(soon)
            await table.revoke(renewed)
            bucket = await bus.bucket(names.KV_REVOCATIONS)
            longer = revocation(renewed.subject)
            stale = dict(here.revoked.entries)
            await bucket.put(renewed.id, json.dumps({name: getattr(longer, name) for name in longer.__struct_fields__}).encode())
            here.revoked.entries.update(stale)  # this process has not heard of it yet
            await late.revoke(revocation(unique("c")))
            left = await bucket.keys()
            assert (soon.id in left, renewed.id in left) == (False, True)
            info = await bus._client.jetstream().stream_info(
                f"KV_{names.KV_REVOCATIONS}", subjects_filter=f"$KV.{names.KV_REVOCATIONS}.{soon.id}"
            )
            assert not info.state.subjects
    finally:
        await journal.stop()


async def test_given_a_jwks_when_its_keys_are_rotated_then_another_process_verifies_by_the_new_ones(
    settings: Settings, tmp_path: Path
) -> None:
    iss = unique("iss")
    served = [pair("ES256").jwk("a")]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = json.dumps({"keys": served}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener, a_bus(settings) as bus:
        keeper, room = Keeper(bus, disk=tmp_path / "coordinator"), Keeper(bus, disk=tmp_path / "room")
        verifier = Verifier()
        room.on_change.append(lambda: verifier.load(room.issuers, room.key_sets))
        await keeper.start()
        await room.start()
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/jwks"
        label = unique("i")
        await keeper.put(issuer_key(label), Issuer(iss=iss, jwks=url, jwks_interval=60))
        await eventually(lambda: iss in keeper.issuers)
        now = [time.time()]
        outside = Outside(OutsideSettings.model_validate({"private": ["127.0.0.0/8"]}))
        sets = KeySets(keeper, outside, wall=lambda: now[0], clock=lambda: now[0])

        def good(alg: str, kid: str) -> bool:
            token = pair(alg).sign(claims(iss=iss, iat=time.time(), exp=time.time() + 60), kid=kid)
            try:
                return bool(verifier.verify(token, "c1", time.time()))
            except BadToken:
                return False

        await sets.turn()
        await eventually(lambda: good("ES256", "a"), what="the first key")
        served[:] = [pair("RS256").jwk("b")]
        await sets.turn()
        assert not good("RS256", "b")  # it is not time yet
        now[0] += 61
        await sets.turn()
        await eventually(lambda: good("RS256", "b"), what="the new key")
        assert not good("ES256", "a")
        await (await bus.bucket(names.KV_KEEPER)).delete(issuer_key(label))
        await eventually(lambda: iss not in keeper.issuers)
        await sets.turn()
        await eventually(lambda: iss not in room.key_sets, what="the set's end")
        assert key_set_key(iss) not in room._documents
        await keeper.stop()
        await room.stop()
