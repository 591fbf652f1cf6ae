"""Key sets: what of a JWKS is used, when it is asked for, and what stays when it can't be had."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from gateway_world import WALL
from joserfc.jwk import import_key
from token_world import pair, part, private_pem

from infra.bus import BusDown
from infra.documents import ApiIssuer, Document, Issuer, KeySet, key_set_key
from infra.tokens import BadToken, Verifier
from workers.jwks import MAX_LOOKED_AT, RETRY, BadSet, KeySets, keys_of
from workers.outside import NoAnswer

URL = "https://login.example/jwks"


def jwks(*keys: Any, **more: Any) -> bytes:
    return json.dumps({"keys": keys, **more}).encode()


def names(data: bytes) -> list[tuple[str, str]]:
    return [(key.kid, key.alg) for key in keys_of(data)]


RS, ES, ED = pair("RS256"), pair("ES256"), pair("EdDSA")


# --- a set -------------------------------------------------------------------------------------------------------------


def test_given_keys_of_each_algorithm_when_read_then_they_verify() -> None:
    found = keys_of(jwks(RS.jwk("r", use="sig"), ES.jwk("e", alg="ES256"), ED.jwk("d", alg="Ed25519", key_ops=["verify"]), x=1))
    by = Verifier()
    by.load({"shop": Issuer(iss="shop", jwks=URL)}, {"shop": KeySet(iss="shop", url=URL, fetched_at=1, tried_at=1, keys=found)})
    assert [(key.kid, key.alg) for key in found] == [("r", "RS256"), ("e", "ES256"), ("d", "EdDSA")]
    assert by.verify(RS.sign(kid="r"), "c1", WALL)
    assert by.verify(ES.sign(kid="e"), "c1", WALL)


@pytest.mark.parametrize(
    "other",
    [
        {"kty": "oct", "kid": "s", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"},
        RS.jwk("x", use="enc"),
        RS.jwk("x", alg="RS512"),
        RS.jwk("x", alg="RSA-OAEP"),
        RS.jwk("x", alg="HS256"),
        RS.jwk("x", key_ops=["encrypt"]),
        {**RS.jwk(), "kid": 7},
        {**RS.jwk(), "kid": "k" * 257},
        RS.jwk("x", n="AAAA"),
        RS.jwk("x", n="_" * 5000),
        RS.jwk("x", n="not base64!"),
        RS.jwk("x", e="AA"),
        RS.jwk("x", e="_" * 400),
        RS.jwk("weak", n=part(b"\xff" * 128).decode()),
        RS.private.as_dict(private=True),
        ES.jwk("x", crv="P-384"),
        ES.jwk("x", x=ES.jwk()["y"]),
        {**import_key(private_pem(ec.generate_private_key(ec.SECP384R1())), "EC").as_dict(private=False)},
        ED.jwk("x", x="AAAA"),
        ED.jwk("x", crv="X25519"),
        {"kty": "EC"},
        {"kty": ["RSA"]},
        {},
        [],
        None,
        7,
    ],
)
def test_given_a_key_that_is_not_ours_when_read_then_it_is_passed_over_and_the_others_hold(other: Any) -> None:
    assert names(jwks(other, ES.jwk("e"))) == [("e", "ES256")]
    with pytest.raises(BadSet, match="can be used"):
        keys_of(jwks(other))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b"null",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys":' + b"[" * 60_000,
        b"\xff\xfe",
        jwks(*[{}] * (MAX_LOOKED_AT + 1)),
        jwks(*[ES.jwk(f"k{number}") for number in range(17)]),
        jwks(ES.jwk("k"), RS.jwk("k")),
        jwks(ES.jwk(), RS.jwk()),
    ],
)
def test_given_what_is_no_usable_set_when_read_then_all_of_it_is_refused(data: bytes) -> None:
    with pytest.raises(BadSet):
        keys_of(data)


# --- when --------------------------------------------------------------------------------------------------------------


class Bucket:
    """The keeper's side of a key set: documents with revisions."""

    def __init__(self, *issuers: Issuer) -> None:
        self.issuers = {item.iss: item for item in issuers}
        self.api_issuers: dict[str, ApiIssuer] = {}
        self.stored: dict[str, tuple[Document, int]] = {}
        self.down = False
        self.current = True
        self.writes = 0

    @property
    def key_sets(self) -> dict[str, KeySet]:
        return {item.iss: item for item, _ in self.stored.values() if isinstance(item, KeySet)}

    async def read(self, key: str) -> tuple[Document, int]:
        if self.down:
            raise BusDown("away")
        return self.stored[key]

    async def put(self, key: str, document: Document) -> None:
        self.writes += 1
        self.stored[key] = document, self.writes

    async def replace(self, key: str, document: Document, revision: int) -> bool:
        if self.stored[key][1] != revision:
            return False
        await self.put(key, document)
        return True

    async def remove(self, key: str) -> None:
        del self.stored[key]


class World:
    def __init__(self, **more: Any) -> None:
        self.now = 1000.0
        self.bucket = Bucket(Issuer(iss="shop", jwks=URL, **more), Issuer(iss="plain", keys=(pair("HS256").document(),)))
        self.answer: bytes | NoAnswer = jwks(ES.jwk("a"))
        self.asked: list[str] = []
        self.meanwhile: KeySet | None = None
        self.sets = self.another()

    def another(self) -> KeySets:
        return KeySets(self.bucket, self, wall=lambda: WALL + self.now, clock=lambda: self.now)  # type: ignore[arg-type]

    async def get(self, url: str, *, most: int) -> bytes:
        self.asked.append(url)
        if self.meanwhile is not None:
            await self.bucket.put(key_set_key("shop"), self.meanwhile)
        if isinstance(self.answer, NoAnswer):
            raise self.answer
        return self.answer

    async def after(self, seconds: float) -> KeySet:
        self.now += seconds
        await self.sets.turn()
        return self.bucket.key_sets["shop"]


async def test_given_an_issuer_with_a_jwks_when_due_then_it_is_fetched_once_an_interval() -> None:
    world = World(jwks_interval=300)
    first = await world.after(0)
    assert ([key.kid for key in first.keys], first.fetched_at, first.error) == (["a"], WALL + 1000, "")
    for _ in range(50):
        await world.after(5)
    assert world.asked == [URL]
    world.answer = jwks(ES.jwk("a"), RS.jwk("b"))
    assert [key.kid for key in (await world.after(60)).keys] == ["a", "b"]
    assert world.asked == [URL] * 2


async def test_given_a_key_that_nobody_knows_when_tokens_name_it_then_nothing_is_fetched() -> None:
    world = World()
    await world.after(0)
    by = Verifier()
    by.load(world.bucket.issuers, world.bucket.key_sets)
    for number in range(100):
        with pytest.raises(BadToken):
            by.verify(ES.sign(kid=f"guess-{number}"), "c1", WALL)
    await world.after(1)
    assert world.asked == [URL]


@pytest.mark.parametrize("wrong", [NoAnswer("it answered 500"), b"<html>", jwks(), jwks(ES.jwk("x"), RS.jwk("x"))])
async def test_given_a_fetch_that_fails_when_tried_then_the_last_keys_stay_and_it_is_tried_again(
    wrong: Any,
) -> None:
    world = World(jwks_interval=600)
    first = await world.after(0)
    world.answer = wrong
    failed = await world.after(600)
    assert (failed.keys, failed.fetched_at, failed.tried_at, bool(failed.error)) == (
        first.keys,
        first.fetched_at,
        WALL + 1600,
        True,
    )
    await world.after(RETRY - 1)
    assert len(world.asked) == 2
    world.answer = jwks(RS.jwk("b"))
    assert ([key.kid for key in (await world.after(1)).keys], world.bucket.key_sets["shop"].error) == (["b"], "")


async def test_given_a_first_fetch_that_fails_when_read_then_there_are_no_keys_and_the_reason_is_told() -> None:
    world = World()
    world.answer = NoAnswer("no")
    found = await world.after(0)
    assert (found.keys, found.fetched_at, found.error) == ((), 0.0, "no")


async def test_given_another_coordinator_that_was_there_when_due_then_it_is_not_asked_again() -> None:
    world = World()
    await world.after(0)
    world.now += 5
    await world.another().turn()
    assert world.asked == [URL]


async def test_given_another_coordinators_success_meanwhile_when_ours_failed_then_its_keys_stay() -> None:
    world = World(jwks_interval=60)
    await world.after(0)
    world.answer = NoAnswer("no")
    keys = (RS.document("theirs"),)
    world.meanwhile = KeySet(iss="shop", url=URL, fetched_at=WALL + 1070, tried_at=WALL + 1070, keys=keys)
    assert (await world.after(70)).keys == keys


async def test_given_a_keeper_that_is_away_when_tried_then_the_issuer_is_not_asked_all_the_time() -> None:
    world = World()
    world.bucket.down = True
    for _ in range(10):
        world.now += 5
        await world.sets.turn()
    assert world.asked == [URL]
    world.bucket.down = False
    await world.after(RETRY)
    assert len(world.asked) == 2


async def test_given_another_url_when_changed_then_it_is_fetched_at_once_and_the_old_keys_are_gone() -> None:
    world = World()
    await world.after(0)
    world.bucket.issuers["shop"] = Issuer(iss="shop", jwks="https://new.example/")
    world.answer = NoAnswer("no")
    found = await world.after(5)
    assert (found.url, found.keys) == ("https://new.example/", ())


async def test_given_an_issuer_without_a_jwks_any_more_when_looked_at_then_its_set_is_removed() -> None:
    world = World()
    await world.after(0)
    world.bucket.issuers["shop"] = Issuer(iss="shop", keys=(pair("HS256").document(),))
    world.bucket.current = False
    await world.sets.turn()
    assert "shop" in world.bucket.key_sets  # the keeper was not read lately: nothing is known to be gone
    world.bucket.current = True
    await world.sets.turn()
    assert world.bucket.key_sets == {}


async def test_given_a_clock_that_was_set_back_when_looked_at_then_it_is_fetched() -> None:
    world = World()
    await world.after(0)
    world.sets = KeySets(world.bucket, world, wall=lambda: WALL - 9000, clock=lambda: world.now)  # type: ignore[arg-type]
    await world.after(5)
    assert len(world.asked) == 2
