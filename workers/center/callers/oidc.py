"""Tokens in place of API keys (OIDC): a JWT of an issuer that the keeper knows for the API, whose claim says what it may."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

import msgspec

from infra.claims import Claims
from infra.documents import ApiIssuer
from infra.signatures import unbase64url
from infra.tokens import Authenticator, BadToken, check_audience, check_times
from workers.center.callers.auth import Caller, NotAdmitted, Role

MAX_SUB: Final = 256


class ApiTokens:
    """Who shows a token. Devices' issuers are others: their tokens open nothing here."""

    def __init__(self) -> None:
        self._signers: Authenticator[ApiIssuer] = Authenticator()
        self.load = self._signers.load

    def find(self, token: bytes, wall: float) -> Caller:
        """Who shows it at `wall` (s since the epoch); raises NotAdmitted."""
        try:
            document, claims = self._signers.authenticate(token)
            check_times(claims, wall, document.max_lifetime)
            check_audience(claims.aud, document.audience)
        except BadToken as error:
            raise NotAdmitted("token", error.text) from None
        has = _values(token, document.claim)
        for grant in document.grants:
            if grant.value in has:
                return Caller(
                    key=_key(claims),
                    products=None if grant.products is None else frozenset(grant.products),
                    roles=frozenset(Role(role) for role in grant.roles),
                    rate=document.rate,
                    confirm_over=document.confirm_over,
                )
        raise NotAdmitted("token", f"nothing in the token's {document.claim} is granted anything here")


def _values(token: bytes, claim: str) -> list[Any]:
    """Of a genuine token."""
    found = msgspec.json.decode(unbase64url(token.split(b".")[1]), type=dict[str, Any]).get(claim)
    return found if isinstance(found, list) else [found]


def _key(claims: Claims) -> str:
    """One for each person: an issuer's `sub` may be any text."""
    if not isinstance(claims.sub, str) or not 0 < len(claims.sub) <= MAX_SUB:
        raise NotAdmitted("token", f"the token's sub is no text of 1 to {MAX_SUB} characters")
    whole = f"{claims.iss}\0{claims.sub}".encode(errors="surrogatepass")
    return f"oidc-{blake2b(whole, digest_size=8).hexdigest()}"
