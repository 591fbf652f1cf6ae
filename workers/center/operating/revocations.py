"""`/v1/revocations`: tokens that hold no more, of a client, of a user, or a single one; and `/v1/issuers`, who signs them."""

from __future__ import annotations

import time
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.documents import Issuer, KeySet
from infra.revoked import MAX_REVOCATIONS, MAX_S, Revocation
from infra.tokens import MAX_JTI
from schemas import names
from workers.center.callers.auth import Caller, Role, Who, needs
from workers.center.callers.limits import limited
from workers.center.content import ClientId, ProductName, RealmName, UserId, product_of
from workers.center.ports import Documents, Parts
from workers.center.web.etags import Words
from workers.center.web.examples import example, example_of
from workers.center.web.problems import Problem, responses

DEFAULT_S: Final = 30 * 24 * 3600
"""How long one holds where no issuer says how long its tokens live."""
MAX_LISTED: Final = 1000
MAX_OF_ONE: Final = MAX_REVOCATIONS // 4
"""That hold at one time, of one key's."""
FULL_S: Final = 60
"""After which one of a key's may have ended, s."""


class RevokeRequest(BaseModel):
    """Whose tokens: of a `client`; of a `user` in a `product`; or the one with this `jti` of this `issuer`."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"client": "phone-1", "by": "ann", "reason": "stolen"}]}
    )

    client: ClientId | None = None
    user: UserId | None = None
    product: ProductName | None = Field(default=None, description="Of the user.")
    jti: Annotated[str, Field(min_length=1, max_length=MAX_JTI)] | None = None
    issuer: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        default=None, description="Of the `jti`: its `iss`."
    )
    realm: RealmName = Field(default=names.DEFAULT_REALM, description="Of the client or user.")
    expires_in_s: int | None = Field(
        default=None,
        ge=1,
        le=MAX_S,
        description="Until the longest token that it covers has expired: by default the `max_lifetime` of the issuers that it "
        "may be of, or 30 days where one has none.",
    )
    by: Words = Field(default="api", description="Who: it is kept in `push.audit`.")
    reason: Words | None = None

    @model_validator(mode="after")
    def _one(self) -> RevokeRequest:
        given = [name for name in ("client", "user", "jti") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("name one of client, user (with product) and jti (with issuer)")
        if (self.user is None) != (self.product is None) or (self.jti is None) != (self.issuer is None):
            raise ValueError("a product belongs to a user, and an issuer to a jti; neither goes without the other")
        return self


class LiftRequest(BaseModel):
    """Who asks, and why."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, json_schema_extra={"examples": [{"by": "ann", "reason": "it is found"}]}
    )

    by: Words = "api"
    reason: Words | None = None


class RevocationView(BaseModel):
    """One revocation. Times in seconds since the epoch."""

    model_config = example(
        id="96f18dfdde123a15445d2bde",
        kind="client",
        realm="main",
        product=None,
        issuer=None,
        subject="phone-1",
        issued_until=1755582462.555,
        expires_at=1758174462.555,
        by="ann (key 0f1e2d3c4b5a)",
        reason="stolen",
    )

    id: str
    kind: Literal["client", "user", "token"]
    realm: str | None = Field(description="Of a client or user.")
    product: str | None = Field(description="Of a user.")
    issuer: str | None = Field(description="Of a token.")
    subject: str = Field(description="The client, the user, or the `jti`.")
    issued_until: float | None = Field(description="Tokens with an `iat` up to then, or without one.")
    expires_at: float
    by: str
    reason: str | None


class RevocationList(BaseModel):
    """The revocations that hold, the newest first. `total`: how many there are."""

    model_config = example(revocations=[example_of(RevocationView)], total=1)

    revocations: list[RevocationView]
    total: int


class KeyView(BaseModel):
    """A key of an issuer: its name and its algorithm, never what it is made of."""

    model_config = example(kid="2026-11", alg="ES256", fetched=True)

    kid: str
    alg: str
    fetched: bool = Field(description="From its JWKS.")


class IssuerView(BaseModel):
    """Who signs tokens, for what, and with which keys."""

    model_config = example(
        iss="https://login.example",
        realm="main",
        audience="longwire",
        products=["demo"],
        max_lifetime_s=86400.0,
        keys=[example_of(KeyView)],
        jwks="https://login.example/keys",
        jwks_age_s=42.0,
        jwks_error=None,
    )

    iss: str
    realm: str
    audience: str
    products: list[str] = Field(description="Empty: all.")
    max_lifetime_s: float | None
    keys: list[KeyView]
    jwks: str | None
    jwks_age_s: float | None = Field(description="Since its JWKS was fetched; null: never.")
    jwks_error: str | None = Field(description="Why the last attempt brought nothing.")


class IssuerList(BaseModel):
    """All issuers."""

    model_config = example(issuers=[example_of(IssuerView)])

    issuers: list[IssuerView]


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["tokens"])
    changing = responses("unauthorized", "journal-down", "bus-down")

    @routes.get(
        "/v1/revocations",
        dependencies=needs(Role.READ),
        response_model=RevocationList,
        responses=responses("bad-input", "unauthorized"),
    )
    async def list_revocations(who: Who, limit: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 100) -> RevocationList:
        """What is revoked, as this center knows it: with a key for some products, of the users in them."""
        found = sorted(
            (entry for entry in parts.revocations.known() if _may(who, entry)), key=lambda entry: entry.before, reverse=True
        )
        return RevocationList(revocations=[_view(entry) for entry in found[:limit]], total=len(found))

    @routes.post(
        "/v1/revocations",
        dependencies=needs(Role.OPERATE),
        response_model=RevocationView,
        responses=changing | responses("bad-input", "unknown-product", "too-many-revocations"),
    )
    async def revoke_tokens(who: Who, request: RevokeRequest) -> RevocationView:
        """Refuse tokens that were issued until now, and end the connections that hold them, within a moment (0x87). A token that
        is issued later is good. Again for the same one: it holds for longer."""
        entry = _entry(request, parts.documents, time.time(), by=who.signed(request.by))
        _check_share(parts, who, entry)
        if entry.product:
            product_of(parts, who, entry.product)
        elif not _may(who, entry):
            raise Problem(
                "forbidden", f"the key {who.key} is for some products; of these it may revoke users", missing=Role.OPERATE
            )
        return _view(await parts.revocations.revoke(entry))

    @routes.post(
        "/v1/revocations/{id}/lift",
        dependencies=needs(Role.OPERATE),
        response_model=RevocationView,
        responses=changing | responses("bad-input", "unknown-revocation"),
    )
    async def lift_revocation(
        who: Who, key: Annotated[str, Path(alias="id", max_length=64)], request: LiftRequest
    ) -> RevocationView:
        """Let the tokens hold again that it covers."""
        if not any(entry.id == key and _may(who, entry) for entry in parts.revocations.known()):
            raise Problem("unknown-revocation", f"there is no revocation {key[:64]!a}")
        return _view(await parts.revocations.lift(key, by=who.signed(request.by), reason=request.reason))

    @routes.get("/v1/issuers", dependencies=needs(Role.READ), response_model=IssuerList, responses=responses("unauthorized"))
    async def list_issuers(who: Who) -> IssuerList:
        """Who signs tokens, with which keys, and how old those are that were fetched."""
        documents, now = parts.documents, time.time()
        seen = [issuer for _, issuer in sorted(documents.issuers.items()) if not issuer.products or who.seen(issuer.products)]
        return IssuerList(issuers=[_issuer(who, issuer, documents.key_sets.get(issuer.iss), now) for issuer in seen])

    return routes


def _check_share(parts: Parts, who: Caller, entry: Revocation) -> None:
    """Raise a Problem (409) where as many hold that the key has made as it may have."""
    known = parts.revocations.known()
    held = sum(who.has_signed(other.by) for other in known)
    if who.rate and held >= MAX_OF_ONE and not any(other.id == entry.id for other in known):
        limited.labels("revocations").inc()
        detail = f"{held} revocations of the key {who.key} hold, as many as one key may have; lift some, or wait until one ends"
        raise Problem("too-many-revocations", detail, retry_after_s=FULL_S)


def _may(who: Caller, entry: Revocation) -> bool:
    """Does it concern the caller's products, and no other?"""
    return who.products is None or (bool(entry.product) and who.sees(entry.product))


def _entry(request: RevokeRequest, documents: Documents, now: float, *, by: str) -> Revocation:
    kind: Literal["client", "user", "token"]
    if request.issuer is not None:
        kind, scope = "token", request.issuer
        issuers = [item for item in documents.issuers.values() if item.iss == request.issuer]
    else:
        kind, scope = ("client" if request.client is not None else "user"), request.realm
        issuers = [item for item in documents.issuers.values() if item.realm == request.realm]
    longest = [item.max_lifetime for item in issuers]
    lasts = [item for item in longest if item is not None]
    default = max(lasts) if lasts and len(lasts) == len(longest) else DEFAULT_S
    return Revocation(
        kind=kind,
        scope=scope,
        subject=request.client or request.user or request.jti or "",
        product=request.product or "",
        before=now,
        until=now + min(MAX_S, request.expires_in_s or default),
        by=by,
        reason=request.reason or "",
    )


def _view(entry: Revocation) -> RevocationView:
    single = entry.kind == "token"
    return RevocationView(
        id=entry.id,
        kind=entry.kind,
        realm=None if single else entry.scope,
        product=entry.product or None,
        issuer=entry.scope if single else None,
        subject=entry.subject,
        issued_until=None if single else entry.before,
        expires_at=entry.until,
        by=entry.by,
        reason=entry.reason or None,
    )


def _issuer(who: Caller, issuer: Issuer, key_set: KeySet | None, now: float) -> IssuerView:
    fetched = key_set if key_set is not None and key_set.url == issuer.jwks else None
    keys = [KeyView(kid=key.kid, alg=key.alg, fetched=False) for key in issuer.keys]
    if fetched is not None:
        keys += [KeyView(kid=key.kid, alg=key.alg, fetched=True) for key in fetched.keys]
    return IssuerView(
        iss=issuer.iss,
        realm=issuer.realm,
        audience=issuer.audience,
        products=[name for name in issuer.products if who.sees(name)],
        max_lifetime_s=issuer.max_lifetime,
        keys=keys,
        jwks=issuer.jwks,
        jwks_age_s=max(0.0, now - fetched.fetched_at) if fetched is not None and fetched.fetched_at else None,
        jwks_error=(fetched.error or None) if fetched is not None else None,
    )
