"""Our own verification and another implementation's (joserfc) agree: on good tokens, and on whatever is made of them.

Where they differ ours is the stricter one (no NaN, no bytes that are not UTF-8, no critical extension at all)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.errors import JoseError

from infra.signatures import base64url, unbase64url
from infra.tokens import BadToken, Verifier
from tests.unit.gateway_world import WALL, claims, issuer
from tests.unit.token_world import ALGORITHMS, Pair, pair

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # of the other implementation; RFC 9864 renames it

TEXT = st.text(max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from([*ALGORITHMS, "none", "HS512"])}, optional={"kid": st.sampled_from(["k", "x", ""]), "typ": TEXT}
)


def ours(key: Pair, token: bytes) -> bool:
    by = Verifier()
    by.load({"shop": issuer(keys=(key.document(),))})
    try:
        return by.authenticate(token) is not None
    except BadToken:
        return False


def theirs(key: Pair, token: bytes) -> bool:
    try:
        found = jws.deserialize_compact(token, key.private, algorithms=[key.alg])
        body = json.loads(found.payload)
    except (JoseError, ValueError, RecursionError):
        return False
    return isinstance(body, dict) and body.get("iss") == "shop" and not found.headers().get("kid")


def signed(key: Pair, header: dict[str, Any], body: Any) -> bytes:
    """Signed by the other one, whatever the header says of the algorithm."""
    token = jws.serialize_compact({"alg": key.alg}, json.dumps(body).encode(), key.private, algorithms=[key.alg])
    if header == {"alg": key.alg}:
        return token.encode()
    return b".".join((base64url(json.dumps(header).encode()), *token.encode().split(b".")[1:]))


@given(
    key=st.sampled_from(ALGORITHMS).map(pair), body=st.dictionaries(TEXT, JSON, max_size=4), iss=st.sampled_from(["shop", "x"])
)
@settings(max_examples=200, deadline=None)
def test_any_claims(key: Pair, body: dict[str, Any], iss: str) -> None:
    token = signed(key, {"alg": key.alg}, {**body, "iss": iss})
    if len(token) < 4096:
        assert ours(key, token) == theirs(key, token) == (iss == "shop")


@given(key=st.sampled_from(ALGORITHMS).map(pair), header=HEADERS)
@settings(max_examples=200, deadline=None)
def test_any_header(key: Pair, header: dict[str, Any]) -> None:
    token = signed(key, header, claims())
    assert ours(key, token) == theirs(key, token)


@given(key=st.sampled_from(ALGORITHMS).map(pair), data=st.data())
@settings(max_examples=400, deadline=None)
def test_any_change_of_a_byte(key: Pair, data: st.DataObject) -> None:
    token = bytearray(key.sign())
    place = data.draw(st.integers(0, len(token) - 1))
    change = data.draw(st.sampled_from(["set", "drop", "insert", "cut"]))
    byte = data.draw(st.integers(0, 255) | st.sampled_from(b"=.+/-_ \n\x00"))
    if change == "set":
        token[place] = byte
    elif change == "drop":
        del token[place]
    elif change == "insert":
        token.insert(place, byte)
    else:
        del token[place:]
    if bytes(token) != key.sign() or key.alg != "ES256":  # each of its signatures is another
        assert ours(key, bytes(token)) == theirs(key, bytes(token))


@given(one=st.sampled_from(ALGORITHMS).map(pair), other=st.sampled_from(ALGORITHMS).map(lambda alg: pair(alg, 1)))
@settings(max_examples=60, deadline=None)
def test_any_other_key(one: Pair, other: Pair) -> None:
    assert not ours(one, other.sign())
    assert ours(one, one.sign())


@given(st.binary(max_size=200))
def test_base64url_has_one_spelling(data: bytes) -> None:
    assert unbase64url(base64url(data)) == data


@given(st.binary(max_size=12) | st.text("ABCDabcd0123-_+/=", max_size=9).map(str.encode))
@settings(max_examples=500)
def test_what_is_read_is_written_the_same(text: bytes) -> None:
    try:
        data = unbase64url(text)
    except ValueError:
        return
    assert base64url(data) == text


def test_given_the_worlds_time_when_verified_then_the_grant_is_the_claims() -> None:
    key = pair("EdDSA")
    by = Verifier()
    by.load({"shop": issuer(keys=(key.document(),))})
    assert by.verify(key.sign(), "c1", WALL).expires_at == claims()["exp"]
