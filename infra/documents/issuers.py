"""Who signs tokens, and with which keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, field_serializer, model_validator

from infra.documents.base import Document, outward
from infra.settings import Seconds
from infra.signatures import MAX_PEM, PUBLIC, SECRET_BYTES, BadKey, Key, public_key, secret_key
from schemas import names

MAX_KID: Final = 256
MAX_SET: Final = 16
"""Keys of a JWKS that are used, at most."""


def _jwks_url(value: str) -> str:
    return outward(value, "a JWKS")


class SigningKey(Document):
    """A key of an issuer: a `secret` (HS256, HS384) or a `public_key` in PEM (RS256, ES256, EdDSA). The algorithm is pinned to
    the key: a token that names another one is refused."""

    kid: str = Field(default="", max_length=MAX_KID)
    alg: Literal["HS256", "HS384", "RS256", "ES256", "EdDSA"] = "HS256"
    secret: SecretStr | None = None
    public_key: str | None = Field(default=None, max_length=MAX_PEM)

    @field_serializer("secret", when_used="json")
    def _reveal(self, secret: SecretStr | None) -> str | None:
        """The bucket is where the secret lives; logs and dumps show stars."""
        return None if secret is None else secret.get_secret_value()

    @model_validator(mode="after")
    def _check(self) -> SigningKey:
        self.verifier()
        return self

    def verifier(self) -> Key:
        """What verifies by it; raises BadKey for material that does not fit the algorithm."""
        if self.alg in SECRET_BYTES and self.secret is not None and self.public_key is None:
            return secret_key(self.alg, self.secret.get_secret_value())
        if self.alg in PUBLIC and self.public_key is not None and self.secret is None:
            return public_key(self.alg, self.public_key)
        raise BadKey(f"a key for {self.alg} has a {'secret' if self.alg in SECRET_BYTES else 'public_key'}, and nothing else")


class Signer(Document):
    """Who signs tokens (`iss`), for whom, and with which keys.

    `jwks`: a URL of further, public keys, asked every `jwks_interval` (RFC 7517); `max_lifetime`: how long after its `iat` a
    token may expire, at most. None: any time, and `iat` may be absent.
    """

    iss: str = Field(min_length=1, max_length=256)
    audience: str
    keys: tuple[SigningKey, ...] = Field(default=(), max_length=4)
    jwks: Annotated[str, Field(max_length=2048), AfterValidator(_jwks_url)] | None = None
    jwks_interval: Annotated[Seconds, Field(ge=60, le=86_400)] = 300.0
    max_lifetime: Seconds | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.keys and self.jwks is None:
            raise ValueError("an issuer has keys, or the URL of a JWKS")
        check_kids(self.keys)
        return self


class Issuer(Signer):
    """Of devices' tokens: its keys sign only its own products, its client ids live in its realm. `products` empty: all."""

    audience: str = "longwire"
    realm: Annotated[str, AfterValidator(names.realm)] = names.DEFAULT_REALM
    products: tuple[Annotated[str, AfterValidator(names.product)], ...] = ()


class ApiGrant(Document):
    """What a token may whose claim has this value. `products` None: all."""

    value: str = Field(min_length=1, max_length=256)
    roles: tuple[Literal["send", "broadcast", "read", "operate", "admin"], ...] = Field(min_length=1, max_length=5)
    products: tuple[Annotated[str, AfterValidator(names.product)], ...] | None = Field(min_length=1, max_length=64)


class ApiIssuer(Signer):
    """Of tokens that are shown to the HTTP API in place of a key (OIDC). A token may what the first of `grants` says whose value
    its `claim`, a text or a list, has; `rate`: requests per second, for each `sub`; `confirm_over` as of a key."""

    audience: str = Field(min_length=1, max_length=256)
    claim: str = Field(default="groups", min_length=1, max_length=64)
    grants: tuple[ApiGrant, ...] = Field(min_length=1, max_length=64)
    rate: int = Field(default=100, ge=1, le=10_000)
    confirm_over: int | None = Field(default=None, ge=0)


class KeySet(Document):
    """What an issuer's JWKS held when it was fetched last: written by a coordinator, never by hand (workers/jwks.py).

    `url`: where from; keys of another URL than the issuer's document has now are not used. Times in seconds since the epoch.
    `error`: why the last attempt, at `tried_at`, brought nothing; the keys are those of `fetched_at` then.
    """

    iss: str = Field(min_length=1, max_length=256)
    url: str
    fetched_at: float
    tried_at: float
    error: str = Field(default="", max_length=200)
    keys: tuple[SigningKey, ...] = Field(default=(), max_length=MAX_SET)

    @model_validator(mode="after")
    def _check(self) -> KeySet:
        if any(key.secret is not None for key in self.keys):
            raise ValueError("a key set is public, and has no secrets")
        check_kids(self.keys)
        return self


def check_kids(keys: Sequence[SigningKey]) -> None:
    """Raises ValueError if two keys have one `kid`. Keys without one may be several: each of an algorithm is tried."""
    kids = [key.kid for key in keys if key.kid]
    for kid in kids:
        if kids.count(kid) > 1:
            raise ValueError(f"kid {kid[:64]!a} is there twice")
