"""Every way in which a token is refused, and what a good one grants."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from gateway_world import SECRET, WALL, claims, issuer, sign

from gateway.admission.auth import Refusal, verified
from gateway.reasons import Reason
from infra.documents import Issuer, SigningKey
from infra.tokens import Verifier


def verifier(*issuers: Issuer) -> Verifier:
    made = Verifier()
    made.load({item.iss: item for item in issuers or (issuer(),)})
    return made


def part(document: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=")


def refused(token: bytes, *, by: Verifier | None = None, client: str = "c1") -> Refusal:
    with pytest.raises(Refusal) as raised:
        verified(by or verifier(), token, client, WALL)
    assert not token or token.decode("latin-1") not in raised.value.text
    assert SECRET not in raised.value.text
    return raised.value


def test_given_a_good_token_when_verified_then_it_grants_what_it_says() -> None:
    grant = verifier(issuer(realm="eu")).verify(sign(claims()), "c1", WALL)
    assert grant.key == "eu:c1"
    assert grant.expires_at == WALL + 3600
    assert grant.products["demo"].user == "u1"
    assert grant.products["demo"].groups == frozenset({"news", "sport"})
    assert grant.products["demo"].attrs == {"os": "x"}
    assert grant.products["chat"].groups is None


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("issuer", {"iss": "stranger"}),
        ("form", {"iss": None}),
        ("form", {"iss": 7}),
        ("aud", {"aud": "elsewhere"}),
        ("aud", {"aud": ["a", "b"]}),
        ("aud", {"aud": None}),
        ("exp", {"exp": None}),
        ("exp", {"exp": "tomorrow"}),
        ("exp", {"exp": True}),
        ("form", {"exp": float("inf")}),
        ("exp", {"exp": 10**400}),
        ("expired", {"exp": int(WALL)}),
        ("nbf", {"nbf": WALL + 61}),
        ("iat", {"iat": WALL + 61}),
        ("iat", {"iat": "now"}),
        ("sub", {"sub": "c2"}),
        ("sub", {"sub": None}),
    ],
)
def test_given_a_wrong_claim_when_verified_then_0x86(kind: str, change: dict[str, Any]) -> None:
    found = refused(sign(claims(**change)))
    assert (found.code, found.kind) == (Reason.BAD_TOKEN, kind)


@pytest.mark.parametrize(
    "products",
    [
        None,
        {},
        [],
        {"demo": 1},
        {"De mo": {}},
        {"demo": {"user": "a b"}},
        {"demo": {"user": 7}},
        {"demo": {"groups": "news"}},
        {"demo": {"groups": ["a/b"]}},
        {"demo": {"groups": [1]}},
        {"demo": {"attrs": {"k": 1}}},
        {"demo": {"attrs": {"k": "v" * 300}}},
        {"demo": {"attrs": {str(i): "" for i in range(33)}}},
        {f"p{i}": {} for i in range(257)},
    ],
)
def test_given_wrong_products_when_verified_then_0x87(products: object) -> None:
    found = refused(sign(claims(products=products)))
    assert (found.code, found.kind) == (Reason.NOT_AUTHORIZED, "products")


def test_given_an_issuer_of_one_product_when_it_signs_for_another_then_0x87() -> None:
    found = refused(sign(claims()), by=verifier(issuer(products=("demo",))))
    assert found.code == Reason.NOT_AUTHORIZED
    assert "chat" in found.text


def test_given_another_issuers_key_when_verified_then_the_signature_is_refused() -> None:
    other = issuer(iss="other", keys=(SigningKey(secret="o" * 40),))
    found = refused(sign(claims(iss="other")), by=verifier(issuer(), other))
    assert found.kind == "signature"


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ({"alg": "none"}, "alg"),
        ({"alg": "HS512"}, "alg"),
        ({"alg": "RS256"}, "alg"),
        ({"typ": "JWT"}, "form"),
        ({"alg": "HS256", "kid": "k9"}, "kid"),
        ({"alg": ["HS256"]}, "form"),
    ],
)
def test_given_a_header_of_the_senders_choice_when_verified_then_the_pin_holds(header: dict[str, Any], kind: str) -> None:
    good = sign(claims()).split(b".")
    found = refused(b".".join((part(header), good[1], b"" if kind == "alg" else good[2])))
    assert (found.code, found.kind) == (Reason.BAD_TOKEN, kind)


@pytest.mark.parametrize(
    "token",
    [b"", b"a.b", b"a.b.c.d", b"\xff\xfe.\x00.x", b"....", b"e30.e30.e30", b"!!.!!.!!", b"." * 4000],
)
def test_given_garbage_when_verified_then_its_form_is_refused(token: bytes) -> None:
    assert refused(token).kind == "form"


def test_given_a_bomb_of_brackets_when_verified_then_it_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b'{"x":' + b"[" * 2500).rstrip(b"=")
    assert refused(deep + b".e30.x").kind == "form"


def test_given_a_changed_payload_when_verified_then_the_signature_is_refused() -> None:
    head, _, signature = sign(claims()).split(b".")
    assert refused(b".".join((head, part(claims("c2")), signature)), client="c2").kind == "signature"


def test_given_two_keys_when_a_kid_names_one_then_only_that_is_tried() -> None:
    keys = (SigningKey(kid="a", secret="a" * 40), SigningKey(kid="b", secret="b" * 40))
    both = verifier(issuer(keys=keys))
    assert both.verify(sign(claims(), secret="b" * 40, header={"alg": "HS256", "kid": "b"}), "c1", WALL)
    assert both.verify(sign(claims(), secret="b" * 40), "c1", WALL)
    assert refused(sign(claims(), secret="b" * 40, header={"alg": "HS256", "kid": "a"}), by=both).kind == "signature"


def test_given_a_key_that_was_taken_away_when_verified_then_refused() -> None:
    made = verifier()
    made.load({})
    assert refused(sign(claims()), by=made).kind == "issuer"
