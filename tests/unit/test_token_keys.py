"""Algorithms and their keys: each pinned, none weak, none taken for another."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from gateway_world import WALL, claims, issuer
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from pydantic import ValidationError
from token_world import ALGORITHMS, Pair, pair, part, pem_of, private_pem

from infra.documents import Issuer, KeySet, SigningKey
from infra.signatures import base64url, secret_key
from infra.tokens import BadToken, Verifier

pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # of the other implementation; RFC 9864 renames it


def verifier(*keys: SigningKey, **more: Any) -> Verifier:
    made = Verifier()
    made.load({"shop": issuer(keys=keys, **more)})
    return made


def kind_of(by: Verifier, token: bytes) -> str:
    with pytest.raises(BadToken) as raised:
        by.verify(token, "c1", WALL)
    assert token.decode("latin-1") not in raised.value.text
    assert raised.value.text.isascii()
    assert raised.value.text.isprintable()
    assert len(raised.value.text) < 300
    return raised.value.kind


def refused(**fields: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        SigningKey.model_validate(fields)
    return str(raised.value.errors(include_input=False, include_url=False))


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("kid", ["", "k1"])
def test_given_a_key_of_each_algorithm_when_it_signed_then_the_token_is_good(alg: str, kid: str) -> None:
    by = verifier(pair(alg).document(kid))
    assert by.verify(pair(alg).sign(**({"kid": kid} if kid else {})), "c1", WALL).key == "main:c1"


def test_given_an_ed25519_key_when_a_token_spells_the_algorithm_as_rfc_9864_does_then_it_is_good() -> None:
    token = jwt.encode({"alg": "Ed25519"}, claims(), pair("EdDSA").private, algorithms=["Ed25519"]).encode()
    assert verifier(pair("EdDSA").document()).verify(token, "c1", WALL)
    assert kind_of(verifier(pair("HS256").document()), token) == "alg"


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_given_another_key_of_the_algorithm_when_verified_then_the_signature_is_refused(alg: str) -> None:
    assert kind_of(verifier(pair(alg).document("k")), pair(alg, 1).sign(kid="k")) == "signature"


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_given_a_flipped_bit_anywhere_in_the_signature_when_verified_then_it_is_refused(alg: str) -> None:
    by = verifier(pair(alg).document("k"))
    head, payload, signature = pair(alg).sign(kid="k").split(b".")
    raw = base64.urlsafe_b64decode(signature + b"==")
    for place in range(0, len(raw), 7):
        changed = bytearray(raw)
        changed[place] ^= 1 << place % 8
        assert kind_of(by, b".".join((head, payload, part(bytes(changed))))) == "signature"
    for wrong in (b"", signature[:-4], signature + b"AAAA", signature + b"=", signature.replace(b"-", b"+") + b"\n", raw[:40]):
        assert kind_of(by, b".".join((head, payload, wrong.replace(b".", b"A")))) == "signature"


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("named", [*ALGORITHMS, "none", "None", "HS512", "PS256", "RS512", "ES384", "Ed448", "", "hs256"])
def test_given_a_header_that_names_another_algorithm_when_verified_then_the_keys_own_one_is_asked_for(
    alg: str, named: str
) -> None:
    if named == alg:
        return
    good = pair(alg).sign(kid="k").split(b".")
    head = part({"alg": named, "kid": "k"})
    assert kind_of(verifier(pair(alg).document("k")), b".".join((head, good[1], b"" if "one" in named else good[2]))) == "alg"


@pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("kid", ["k", ""])
def test_given_a_public_key_used_as_a_secret_when_it_signed_an_hs256_token_then_it_is_refused(alg: str, kid: str) -> None:
    """Key confusion (RFC 8725 §2.1)."""
    head, payload = part({"alg": "HS256", **({"kid": kid} if kid else {})}), part(claims())
    for secret in (pair(alg).material, pair(alg).material.strip(), pair(alg).material.strip() + "\n"):
        forged = part(hmac.digest(secret.encode(), head + b"." + payload, hashlib.sha256))
        assert kind_of(verifier(pair(alg).document(kid)), b".".join((head, payload, forged))) == "alg"


def test_given_an_rs256_and_an_hs256_key_when_a_token_names_one_kid_then_only_that_keys_algorithm_counts() -> None:
    both = verifier(pair("RS256").document("r"), pair("HS256").document("h"))
    assert kind_of(both, pair("HS256").sign(kid="r")) == "alg"
    assert kind_of(both, pair("RS256").sign(kid="h")) == "alg"
    assert both.verify(pair("RS256").sign(kid="r"), "c1", WALL)
    assert both.verify(pair("RS256").sign(), "c1", WALL)  # an issuer's own keys are few: they are tried


@pytest.mark.parametrize(
    "kid", ["k2", "K", "../../etc/passwd", "k\x00", "k\r\nx", "' or 1=1", "k" * 2000, "ключ", "\ud83d\ude00", " "]
)
def test_given_a_kid_with_odd_characters_when_verified_then_it_is_no_keys(kid: str) -> None:
    payload = part(claims())
    head = part({"alg": "HS256", "kid": kid})
    assert kind_of(verifier(pair("HS256").document("k")), b".".join((head, payload, b"x"))) == "kid"


def test_given_a_kid_with_odd_characters_when_a_key_has_it_then_the_token_is_good() -> None:
    assert verifier(pair("ES256").document("a/b+c==\n ü")).verify(pair("ES256").sign(kid="a/b+c==\n ü"), "c1", WALL)


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], None, "x", ["urn:example"]])
def test_given_critical_extensions_when_verified_then_refused(crit: Any) -> None:
    """RFC 7515 §4.1.11: who does not understand one has to refuse."""
    head, payload = part({"alg": "HS256", "crit": crit, "b64": True, "exp": 1}), part(claims())
    signature = part(hmac.digest(pair("HS256").material.encode(), head + b"." + payload, hashlib.sha256))
    assert kind_of(verifier(pair("HS256").document()), b".".join((head, payload, signature))) == "crit"


@pytest.mark.parametrize("name", ["jwk", "jku", "x5u", "x5c"])
def test_given_a_header_that_brings_its_own_key_when_verified_then_the_keepers_one_counts(name: str) -> None:
    other = pair("ES256", 1)
    head, payload = part({"alg": "ES256", name: other.jwk() if name == "jwk" else "https://evil.example/jwks"}), part(claims())
    *_, signature = other.sign().split(b".")
    assert kind_of(verifier(pair("ES256").document()), b".".join((head, payload, signature))) == "signature"


def test_given_a_token_that_is_too_large_when_verified_then_refused_before_it_is_read() -> None:
    assert kind_of(verifier(pair("HS256").document()), pair("HS256").sign(claims(pad="x" * 4096))) == "size"


@pytest.mark.parametrize(
    ("header", "kind"),
    [({"alg": "HS256", "kid": 7}, "form"), ({"alg": 1}, "form"), ([], "form"), ("HS256", "form"), (None, "form")],
)
def test_given_a_header_of_another_form_when_verified_then_refused(header: Any, kind: str) -> None:
    assert kind_of(verifier(pair("HS256").document()), b".".join((part(header), part(claims()), b"x"))) == kind


def test_given_signatures_in_der_when_verified_then_refused() -> None:
    """RFC 7518 §3.4: R and S side by side, 64 bytes."""
    from cryptography.hazmat.primitives import hashes

    head, payload, _ = pair("ES256").sign().split(b".")
    key = ec.generate_private_key(ec.SECP256R1())
    signature = part(key.sign(head + b"." + payload, ec.ECDSA(hashes.SHA256())))
    by = verifier(SigningKey(alg="ES256", public_key=pem_of(key)))
    assert kind_of(by, b".".join((head, payload, signature))) == "signature"
    assert kind_of(by, b".".join((head, payload, part(bytes(64))))) == "signature"


# --- key material ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alg", "size"), [("HS256", 31), ("HS384", 47), ("HS256", 1025)])
def test_given_a_secret_that_is_too_short_or_too_long_when_read_then_refused_without_showing_it(alg: str, size: int) -> None:
    text = refused(alg=alg, secret="q" * size)
    assert f"and not {size}" in text
    assert "qqqq" not in text


def test_given_a_secret_of_the_least_length_when_read_then_good() -> None:
    assert SigningKey(alg="HS256", secret="q" * 32)
    assert SigningKey(alg="HS384", secret="ü" * 24)


@pytest.mark.parametrize("bits", [1024, 8192])
def test_given_an_rsa_key_that_is_weak_or_too_large_when_read_then_refused(bits: int) -> None:
    numbers = rsa.RSAPublicNumbers(65537, (1 << bits) - 189)
    from cryptography.hazmat.primitives import serialization

    pem = numbers.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert f"and not {bits}" in refused(alg="RS256", public_key=pem.decode())


def test_given_a_curve_that_is_not_the_algorithms_when_read_then_refused() -> None:
    assert "P-256" in refused(alg="ES256", public_key=pem_of(ec.generate_private_key(ec.SECP384R1())))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"alg": "RS256", "public_key": pair("ES256").material}, "not of RS256"),
        ({"alg": "ES256", "public_key": pair("EdDSA").material}, "not of ES256"),
        ({"alg": "EdDSA", "public_key": pair("RS256").material}, "not of EdDSA"),
        ({"alg": "HS256", "public_key": pair("RS256").material}, "has a secret"),
        ({"alg": "HS256", "secret": pair("RS256").material}, "everybody may know"),
        ({"alg": "HS256", "secret": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "x" * 40}, "everybody may know"),
        ({"alg": "RS256", "secret": "s" * 40}, "has a public_key"),
        ({"alg": "RS256"}, "has a public_key"),
        ({"alg": "HS256", "secret": "s" * 40, "public_key": pair("RS256").material}, "nothing else"),
        ({"alg": "ES256", "public_key": private_pem(ec.generate_private_key(ec.SECP256R1()))}, "private key"),
        ({"alg": "ES256", "public_key": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"}, "PEM"),
        ({"alg": "ES256", "public_key": "x" * 5000}, "4096"),
        ({"alg": "none", "secret": "s" * 40}, "Input should be"),
        ({"alg": "HS512", "secret": "s" * 80}, "Input should be"),
        ({"kid": "k" * 257, "secret": "s" * 40}, "256"),
    ],
)
def test_given_material_of_another_kind_when_read_then_refused(fields: dict[str, str], word: str) -> None:
    assert word in refused(**fields)


def test_given_a_kid_twice_when_an_issuer_is_read_then_refused() -> None:
    with pytest.raises(ValidationError, match="there twice"):
        Issuer(iss="shop", keys=(pair("HS256").document("k"), pair("ES256").document("k")))
    with pytest.raises(ValidationError, match="there twice"):
        KeySet(iss="s", url="u", fetched_at=1, tried_at=1, keys=(pair("RS256").document("k"), pair("ES256").document("k")))


def test_given_secrets_in_a_key_set_when_read_then_refused() -> None:
    with pytest.raises(ValidationError, match="no secrets"):
        KeySet(iss="s", url="u", fetched_at=1, tried_at=1, keys=(pair("HS256").document("k"),))


def test_given_an_issuer_without_any_key_when_read_then_refused() -> None:
    with pytest.raises(ValidationError, match="has keys"):
        Issuer(iss="shop")
    assert Issuer(iss="shop", jwks="https://login.example/jwks")


@pytest.mark.parametrize(
    "url", ["http://login.example/jwks", "ftp://x/y", "https://u:p@x/y", "file:///etc/passwd", "https://x/#f", "x"]
)
def test_given_a_jwks_url_that_is_none_when_read_then_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Issuer(iss="shop", jwks=url)


# --- key sets ----------------------------------------------------------------------------------------------------------

URL = "https://login.example/jwks"


def key_set(*keys: SigningKey, url: str = URL) -> KeySet:
    return KeySet(iss="shop", url=url, fetched_at=WALL, tried_at=WALL, keys=keys)


def with_set(found: KeySet | None, *own: SigningKey) -> Verifier:
    made = Verifier()
    made.load({"shop": issuer(keys=own, jwks=URL)}, {"shop": found} if found else {})
    return made


def test_given_a_fetched_key_when_its_kid_is_named_then_good_and_the_issuers_own_keys_hold_too() -> None:
    by = with_set(key_set(pair("RS256").document("r")), pair("HS256").document())
    assert by.verify(pair("RS256").sign(kid="r"), "c1", WALL)
    assert by.verify(pair("HS256").sign(), "c1", WALL)
    assert kind_of(by, pair("RS256").sign()) == "alg"  # a fetched key with a kid is not tried without it


def test_given_a_fetched_key_under_the_kid_of_an_own_one_when_named_then_the_own_one_counts() -> None:
    by = with_set(key_set(pair("ES256", 1).document("k")), pair("ES256").document("k"))
    assert by.verify(pair("ES256").sign(kid="k"), "c1", WALL)
    assert kind_of(by, pair("ES256", 1).sign(kid="k")) == "signature"


def test_given_keys_of_another_url_than_the_issuers_when_verified_then_they_are_nobodys() -> None:
    assert (
        kind_of(with_set(key_set(pair("ES256").document("k"), url="https://old.example/")), pair("ES256").sign(kid="k")) == "kid"
    )
    made = Verifier()
    made.load({"shop": issuer()}, {"shop": key_set(pair("ES256").document("k"))})
    assert kind_of(made, pair("ES256").sign(kid="k")) == "kid"


def test_given_a_rotation_when_loaded_then_the_new_key_holds_and_the_old_one_does_not() -> None:
    made = with_set(key_set(pair("ES256").document("a")))
    made.load({"shop": issuer(keys=(), jwks=URL)}, {"shop": key_set(pair("ES256", 1).document("b"))})
    assert made.verify(pair("ES256", 1).sign(kid="b"), "c1", WALL)
    assert kind_of(made, pair("ES256").sign(kid="a")) == "kid"


def test_given_a_change_elsewhere_when_loaded_then_keys_are_not_made_again() -> None:
    made = with_set(key_set(pair("RS256").document("r")))
    before = made._issuers["shop"]
    again = key_set(pair("RS256").document("r")).model_copy(update={"tried_at": WALL + 300, "fetched_at": WALL + 300})
    made.load({"shop": issuer(keys=(), jwks=URL), "other": issuer(iss="other")}, {"shop": again})
    assert made._issuers["shop"] is before


def test_given_max_lifetime_when_a_token_lives_longer_or_has_no_iat_then_refused() -> None:
    by = verifier(pair("HS256").document(), max_lifetime=3600)
    assert by.verify(pair("HS256").sign(), "c1", WALL).issued_at == WALL
    assert kind_of(by, pair("HS256").sign(claims(iat=WALL - 1))) == "lifetime"
    assert kind_of(by, pair("HS256").sign(claims(iat=None))) == "lifetime"


@pytest.mark.parametrize("jti", [7, "j" * 257, ["a"], {}])
def test_given_a_jti_that_is_no_short_text_when_verified_then_refused(jti: Any) -> None:
    assert kind_of(verifier(pair("HS256").document()), pair("HS256").sign(claims(jti=jti))) == "jti"


def test_given_tokens_that_grant_the_same_when_verified_then_their_parts_are_shared() -> None:
    by = verifier(pair("HS256").document())
    one, other = (
        by.verify(pair("HS256").sign(claims(jti=f"t{i}", exp=WALL + 3600 + i, iat=WALL + i)), "c1", WALL) for i in (0, 1)
    )
    assert one.products.names is other.products.names
    assert one.products["demo"].groups is other.products["demo"].groups
    assert one.products["demo"].attrs is other.products["demo"].attrs
    assert one.lifetime is other.lifetime
    assert one.mark != other.mark
    assert (list(one.products), len(one.products), "x" in one.products, one.products.get("x")) == (
        ["demo", "chat"],
        2,
        False,
        None,
    )


def test_pairs_are_what_they_say() -> None:
    assert isinstance(pair("RS256"), Pair)
    assert pair("RS256").jwk("k")["kid"] == "k"
    assert "d" not in pair("RS256").jwk()


@given(
    alg=st.sampled_from([("HS256", hashlib.sha256, 32), ("HS384", hashlib.sha384, 48)]),
    more=st.integers(0, 200),
    signed=st.binary(max_size=300),
)
def test_given_a_secret_of_any_length_when_it_signed_then_the_signature_is_that_of_the_librarys_hmac(
    alg: tuple[str, Any, int], more: int, signed: bytes
) -> None:
    name, made, least = alg
    secret = "s" * (least + more)
    key = secret_key(name, secret)
    signature = base64url(hmac.digest(secret.encode(), signed, made))
    assert key.verifies(signed, signature)
    assert key.verifies(signed, signature)  # nothing of the first is left
    assert not key.verifies(signed + b"x", signature)


def test_given_the_same_products_of_two_issuers_when_one_may_not_sign_for_them_then_only_the_others_are_granted() -> None:
    by = Verifier()
    issuers = {name: issuer(iss=name, keys=(pair("HS256").document(),)) for name in ("shop", "other")}
    issuers["other"] = issuers["other"].model_copy(update={"products": ("chat",)})
    by.load(issuers)
    good, others = (pair("HS256").sign(claims(iss=name)) for name in ("shop", "other"))
    assert by.verify(good, "c1", WALL).products is by.verify(good, "c1", WALL).products
    assert kind_of(by, others) == "products"
    by.load({"shop": issuers["shop"].model_copy(update={"products": ("chat",)})})
    assert kind_of(by, good) == "products"


def test_given_more_texts_of_products_than_are_remembered_then_each_client_is_granted_its_own() -> None:
    by = verifier(pair("HS256").document())
    for number in range(1_100):
        body = claims(products={"demo": {"user": f"u{number}"}})
        for _ in range(2):
            assert by.verify(pair("HS256").sign(body), "c1", WALL).products["demo"].user == f"u{number}"
    assert len(by._alike) <= 1024
