"""Devices' tokens: a JWT, signed by an issuer that the keeper knows (RFC 7519, RFC 8725). In CONNECT it is the password.

The issuer is found by `iss`, its algorithm is pinned by its key, its products bound what the token may say. Keys are objects,
rebuilt when the keeper changes, never parsed for a connection. No error text holds the token.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any, Final, NoReturn

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from infra.attributes import Attributes, Interned
from infra.keeper import Issuer
from schemas import names

LEEWAY_S: Final = 60
"""How far `nbf` and `iat` may lie in the future: the issuer's clock is not ours."""

MAX_TIME: Final = 1 << 40
MAX_ATTRS: Final = 32
MAX_ATTR_BYTES: Final = 256
ANY_GROUP: Final = "*"


class BadToken(Exception):
    """A token that is refused: a short kind for a counter, and the text that the client is told. `forbidden`: it is genuine,
    and names no product that its issuer may sign for."""

    def __init__(self, kind: str, text: str, *, forbidden: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.forbidden = forbidden


@dataclass(frozen=True, slots=True)
class ProductGrant:
    """What a token allows in one product. `groups` None: any. `attrs` is shared by all grants of a Verifier that equal it."""

    user: str
    groups: frozenset[str] | None
    attrs: Attributes


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token allows: `key` is the client's `realm:client`, `expires_at` in seconds since the epoch."""

    key: str
    expires_at: float
    products: dict[str, ProductGrant]


class _Header(msgspec.Struct):
    alg: str
    kid: str = ""


class _Peek(msgspec.Struct):
    iss: str


@dataclass(frozen=True, slots=True)
class _Key:
    kid: str
    alg: str
    key: OctKey


@dataclass(frozen=True, slots=True)
class _Issuer:
    document: Issuer
    keys: tuple[_Key, ...]


class Verifier:
    """Verifies tokens by the issuers that `load` was given last."""

    def __init__(self) -> None:
        self._issuers: dict[str, _Issuer] = {}
        self._header = msgspec.json.Decoder(_Header)
        self._peek = msgspec.json.Decoder(_Peek)
        self._attrs = Interned()

    def load(self, issuers: Mapping[str, Issuer]) -> None:
        """Replace all keys."""
        self._issuers = {iss: _Issuer(issuer, _keys(issuer)) for iss, issuer in issuers.items()}

    def verify(self, token: bytes, client_id: str | None, wall: float) -> Grant:
        """What the token allows `client_id` at `wall` (s since the epoch); None: whichever client it names. Raises BadToken."""
        issuer, claims = self._authenticate(token)
        document = issuer.document
        expires_at = _check_times(claims, wall)
        _check_audience(claims.get("aud"), document.audience)
        subject = claims.get("sub")
        if client_id is None:
            client_id = _client(subject)
        elif subject != client_id:
            _bad("sub", "the token's sub is not this client id")
        products = _products(claims.get("products"), document, self._attrs)
        return Grant(names.client_key(document.realm, client_id), expires_at, products)

    def _authenticate(self, token: bytes) -> tuple[_Issuer, dict[str, Any]]:
        header, iss = self._look(token)
        issuer = self._issuers.get(iss)
        if issuer is None:
            _bad("issuer", f"issuer {iss[:64]!a} is not known here")
        keys = [key for key in issuer.keys if key.kid == header.kid or not header.kid]
        if not keys:
            _bad("kid", f"issuer {iss[:64]!a} has no key {header.kid[:64]!a}")
        keys = [key for key in keys if key.alg == header.alg]
        if not keys:
            _bad("alg", f"algorithm {header.alg[:16]!a} is not the key's")
        return issuer, _claims(token, keys, iss)

    def _look(self, token: bytes) -> tuple[_Header, str]:
        """What the token says of itself, not believed yet: only to find the key."""
        parts = token.split(b".")
        if len(parts) != 3:
            _bad("form", "the password is not a JWT (three parts)")
        try:
            return self._header.decode(_unbase64(parts[0])), self._peek.decode(_unbase64(parts[1])).iss
        except (msgspec.MsgspecError, ValueError, RecursionError):
            _bad("form", "the JWT's header (alg) or payload (iss) can't be read")


def _bad(kind: str, text: str) -> NoReturn:
    raise BadToken(kind, text) from None


def _forbidden(text: str) -> NoReturn:
    raise BadToken("products", text, forbidden=True) from None


def _keys(issuer: Issuer) -> tuple[_Key, ...]:
    return tuple(_Key(key.kid, key.alg, OctKey.import_key(key.secret.get_secret_value())) for key in issuer.keys)


def _unbase64(part: bytes) -> bytes:
    return base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _claims(token: bytes, keys: list[_Key], iss: str) -> dict[str, Any]:
    for key in keys:
        try:
            claims = jwt.decode(token, key.key, algorithms=[key.alg]).claims
        except (JoseError, ValueError, RecursionError):
            continue
        if claims.get("iss") == iss:
            return claims
    _bad("signature", "the token's signature is not of its issuer")


def _time(claims: dict[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_TIME:
        _bad(name, f"the token's {name} is not a time")
    return float(value)


def _check_times(claims: dict[str, Any], wall: float) -> float:
    expires_at = _time(claims, "exp")
    if expires_at is None:
        _bad("exp", "the token has no exp")
    if expires_at <= wall:
        _bad("expired", "the token has expired")
    for name in ("nbf", "iat"):
        if (_time(claims, name) or 0.0) > wall + LEEWAY_S:
            _bad(name, f"the token's {name} lies in the future")
    return expires_at


def _client(subject: object) -> str:
    try:
        return names.client(_text(subject))
    except ValueError:
        _bad("sub", "the token's sub is no client id")


def _check_audience(aud: object, expected: str) -> None:
    if aud != expected and not (isinstance(aud, list) and expected in aud):
        _bad("aud", f"the token's aud does not name {expected!a}")


def _products(claim: object, issuer: Issuer, known: Interned) -> dict[str, ProductGrant]:
    if not isinstance(claim, dict) or not claim:
        _forbidden("the token names no products")
    if len(claim) > 256:
        _forbidden(f"the token names {len(claim)} products, more than 256")
    granted = {}
    for name, body in claim.items():
        if issuer.products and name not in issuer.products:
            _forbidden(f"issuer {issuer.iss[:64]!a} may not sign for product {str(name)[:64]!a}")
        granted[intern(str(name))] = _product(name, body, known)
    return granted


def _product(name: str, body: object, known: Interned) -> ProductGrant:
    if not isinstance(body, dict):
        _forbidden(f"products.{name[:64]!a} is not an object")
    try:
        names.product(name)
        user = names.user(_text(body["user"])) if body.get("user") else ""
        return ProductGrant(user, _groups(body.get("groups", [])), known.of(_attrs(body.get("attrs") or {})))
    except ValueError as error:
        _forbidden(f"products.{name[:64]!a}: {error}")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} where text belongs")
    return value


def _groups(value: object) -> frozenset[str] | None:
    if not isinstance(value, list):
        raise ValueError("groups is not a list")
    if ANY_GROUP in value:
        return None
    return frozenset(names.group(_text(item)) for item in value)


def _attrs(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > MAX_ATTRS:
        raise ValueError(f"attrs is not an object of at most {MAX_ATTRS} texts")
    for key, item in value.items():
        if len(key.encode()) + len(_text(item).encode()) > MAX_ATTR_BYTES:
            raise ValueError(f"an attr has more than {MAX_ATTR_BYTES} bytes")
    return {intern(key): item for key, item in value.items()}
