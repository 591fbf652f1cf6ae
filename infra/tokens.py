"""Devices' tokens: a JWT, signed by an issuer that the keeper knows (RFC 7519, RFC 8725). In CONNECT it is the password.

The issuer is found by `iss`, its algorithm is pinned by its key, its products bound what the token may say. Keys are objects,
made anew when their documents change, never for a connection. No error text holds the token. Why no library verifies: ADR 15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Generic, NoReturn, TypeVar

import msgspec

from infra.claims import Claims, Header
from infra.documents import Issuer, KeySet, Signer, SigningKey
from infra.granting import Granter
from infra.grants import BadToken, Grant, ProductGrant, Products, mark_of
from infra.revoked import Revoked
from infra.signatures import ED25519, Key, unbase64url
from schemas import names

__all__ = ["Authenticator", "BadToken", "Claims", "Grant", "ProductGrant", "Verifier", "check_audience", "check_times"]

S = TypeVar("S", bound=Signer)

LEEWAY_S: Final = 60
"""How far `nbf` and `iat` may lie in the future: the issuer's clock is not ours."""

MAX_TOKEN: Final = 4096
"""Bytes; a CONNECT has no more either (gateway/mqtt/framing.py)."""
MAX_TIME: Final = 1 << 40
MAX_JTI: Final = 256
_UNREADABLE: Final = "the JWT's header (alg) or payload (iss) can't be read"
_HEADERS: Final = 64
"""Headers that are known by their bytes: of genuine tokens only, and an issuer's are all alike."""
_ALIKE: Final = 1024
_ALIKE_BYTES: Final = 512
"""What tokens say of their products is known by its bytes, for so many texts of at most so many bytes: where no user is named
most devices' say the same."""


@dataclass(frozen=True, slots=True)
class _Key:
    alg: str
    key: Key


class _Issuer(Generic[S]):
    """An issuer with its keys: by `kid`, and those to try where a token names none."""

    __slots__ = ("by_kid", "document", "key_set", "unnamed")

    def __init__(self, document: S, key_set: KeySet | None) -> None:
        self.document = document
        self.key_set = key_set
        fetched = key_set.keys if key_set is not None and key_set.url == document.jwks else ()
        own = [(item.kid, _made(item)) for item in document.keys]
        others = [(item.kid, _made(item)) for item in fetched]
        self.by_kid = {kid: key for kid, key in (*others, *own) if kid}
        self.unnamed = tuple([key for _, key in own] + [key for kid, key in others if not kid])

    def same(self, document: S, key_set: KeySet | None) -> bool:
        """Do these documents say what the ones say that it was made of?"""
        old = self.key_set
        if document != self.document or (old is None) != (key_set is None):
            return False
        return old is None or key_set is None or (old.url, old.keys) == (key_set.url, key_set.keys)

    def candidates(self, header: Header) -> tuple[Key, ...]:
        """The keys that the token may be signed with, of the algorithm that each is pinned to. Raises BadToken."""
        iss = self.document.iss
        keys: tuple[_Key, ...]
        if header.kid:
            named = self.by_kid.get(header.kid)
            keys = (named,) if named is not None else ()
        else:
            keys = self.unnamed
        if not keys:
            _bad("kid", f"issuer {iss[:64]!a} has no key {header.kid[:64]!a}")
        named_alg = "EdDSA" if header.alg == ED25519 else header.alg
        fitting = tuple([item.key for item in keys if item.alg == named_alg])
        if not fitting:
            _bad("alg", f"algorithm {header.alg[:16]!a} is not the key's")
        return fitting


class Authenticator(Generic[S]):
    """Whose tokens are genuine, by the issuers that `load` was given last."""

    def __init__(self) -> None:
        self._issuers: dict[str, _Issuer[S]] = {}
        self._known: dict[tuple[bytes, str], tuple[S, tuple[Key, ...]]] = {}
        self._header = msgspec.json.Decoder(Header).decode
        self._claims = msgspec.json.Decoder(Claims).decode

    def load(self, issuers: Mapping[str, S], key_sets: Mapping[str, KeySet] | None = None) -> None:
        """Replace all keys; those whose documents did not change stay as they are. `key_sets`: what their JWKS held, by `iss`."""
        sets = key_sets or {}
        before, self._issuers, self._known = self._issuers, {}, {}
        for iss, document in issuers.items():
            old = before.get(iss)
            same = old is not None and old.same(document, sets.get(iss))
            self._issuers[iss] = old if old is not None and same else _Issuer(document, sets.get(iss))

    def authenticate(self, token: bytes) -> tuple[S, Claims]:
        """Who signed it, and what it says: its times and its audience are not checked yet. Raises BadToken."""
        if len(token) > MAX_TOKEN:
            _bad("size", f"a token of {len(token)} bytes, more than {MAX_TOKEN}")
        parts = token.split(b".")
        if len(parts) != 3:
            _bad("form", "the password is not a JWT (three parts)")
        head, payload, signature = parts
        try:  # not believed yet: only to find the key
            claims = self._claims(unbase64url(payload))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            _bad("form", _UNREADABLE)
        known = self._known.get((head, claims.iss))
        document, keys = known or self._find(head, claims.iss)
        signed = token[: -1 - len(signature)]
        for key in keys:
            if key.verifies(signed, signature):
                if known is None and len(self._known) < _HEADERS:
                    self._known[head, claims.iss] = document, keys
                return document, claims
        raise BadToken("signature", "the token's signature is not of its issuer")

    def _find(self, head: bytes, iss: str) -> tuple[S, tuple[Key, ...]]:
        """The issuer, and the keys that a token with this header may be signed with. Raises BadToken."""
        try:
            header = self._header(unbase64url(head))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            _bad("form", _UNREADABLE)
        issuer = self._issuers.get(iss)
        if issuer is None:
            _bad("issuer", f"issuer {iss[:64]!a} is not known here")
        keys = issuer.candidates(header)
        if header.crit is not msgspec.UNSET:
            _bad("crit", "the token has critical extensions (crit), and none is known here")
        return issuer.document, keys


class Verifier(Authenticator[Issuer]):
    """Verifies devices' tokens."""

    def __init__(self, revoked: Revoked | None = None) -> None:
        """`revoked`: what is refused although it is genuine."""
        super().__init__()
        self._revoked = revoked
        self._granter = Granter()
        self._alike: dict[tuple[str, bytes], Products] = {}
        self._products = msgspec.json.Decoder().decode

    def load(self, issuers: Mapping[str, Issuer], key_sets: Mapping[str, KeySet] | None = None) -> None:
        """See `Authenticator`."""
        self._alike = {}
        super().load(issuers, key_sets)

    def verify(self, token: bytes, client_id: str | None, wall: float) -> Grant:
        """What the token allows `client_id` at `wall` (s since the epoch); None: whichever client it names. Raises BadToken."""
        document, claims = self.authenticate(token)
        expires_at, lifetime = check_times(claims, wall, document.max_lifetime)
        check_audience(claims.aud, document.audience)
        subject = claims.sub
        if client_id is None:
            client_id = _client(subject)
        elif subject != client_id:
            _bad("sub", "the token's sub is not this client id")
        grant = Grant(
            names.client_key(document.realm, client_id),
            expires_at,
            self._granted(bytes(claims.products), document),
            self._granter.shared(lifetime),
            _mark(document.iss, claims.jti),
        )
        if self._revoked is not None and self._revoked.covers(grant, wall):
            raise BadToken("revoked", "the token was revoked", forbidden=True)
        return grant

    def _granted(self, claim: bytes, issuer: Issuer) -> Products:
        """What the issuer grants by this text of `products`; what was granted by it once is shared. Raises BadToken."""
        found = self._alike.get((issuer.iss, claim))
        if found is not None:
            return found
        try:
            value = self._products(claim) if claim else None
        except (msgspec.MsgspecError, ValueError, RecursionError):
            _bad("form", _UNREADABLE)
        products = self._granter.products(value, issuer)
        if len(claim) <= _ALIKE_BYTES:
            if len(self._alike) >= _ALIKE:
                self._alike.clear()
            self._alike[issuer.iss, claim] = products
        return products


def _made(item: SigningKey) -> _Key:
    return _Key(item.alg, item.verifier())


def _bad(kind: str, text: str) -> NoReturn:
    raise BadToken(kind, text) from None


def _time(name: str, value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < MAX_TIME:
        _bad(name, f"the token's {name} is not a time")
    return float(value)


def check_times(claims: Claims, wall: float, max_lifetime: float | None) -> tuple[float, float]:
    """`exp`, and how long after `iat` it is (0: there is no `iat`). Raises BadToken."""
    expires_at = _time("exp", claims.exp)
    if expires_at is None:
        _bad("exp", "the token has no exp")
    if expires_at <= wall:
        _bad("expired", "the token has expired")
    not_before, issued_at = _time("nbf", claims.nbf), _time("iat", claims.iat)
    if not_before is not None and not_before > wall + LEEWAY_S:
        _bad("nbf", "the token's nbf lies in the future")
    if issued_at is not None and issued_at > wall + LEEWAY_S:
        _bad("iat", "the token's iat lies in the future")
    if max_lifetime is not None and (issued_at is None or expires_at - issued_at > max_lifetime):
        _bad("lifetime", f"the token lives longer than the {max_lifetime:g} s that its issuer is given, or has no iat")
    return expires_at, 0.0 if issued_at is None else expires_at - issued_at


def _mark(iss: str, jti: object) -> int:
    if jti is None:
        return 0
    if not isinstance(jti, str) or len(jti) > MAX_JTI:
        _bad("jti", f"the token's jti is not a text of at most {MAX_JTI} characters")
    return mark_of(iss, jti)


def _client(subject: object) -> str:
    try:
        return names.client(subject if isinstance(subject, str) else "")
    except ValueError:
        _bad("sub", "the token's sub is no client id")


def check_audience(aud: object, expected: str) -> None:
    """Raises BadToken."""
    if aud != expected and not (isinstance(aud, list) and expected in aud):
        _bad("aud", f"the token's aud does not name {expected!a}")
