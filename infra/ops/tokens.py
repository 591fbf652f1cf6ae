"""Tokens for devices: JWT signed by the local system's own issuer (RFC 7519)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from joserfc import jwt
from joserfc.jwk import OctKey

from infra.ops.up import ISSUER
from infra.system import NoSystem
from schemas import names


def make_token(
    data: Path,
    *,
    client: str,
    product: str,
    also: Sequence[str] = (),
    user: str = "",
    groups: Sequence[str] = (),
    attrs: Mapping[str, str] | None = None,
    ttl_s: int = 24 * 3600,
) -> str:
    """A token for one client and one product, `also` for others; raises NoSystem if the data folder has no signing secret,
    BadName for bad ids."""
    secret = data / "issuer-secret"
    if not secret.exists():
        raise NoSystem(f"{data} has no signing secret; `pushctl up` makes one, or sign tokens with your own issuer's key")
    names.client(client)
    now = int(time.time())
    grant: dict[str, object] = {"groups": [group if group == "*" else names.group(group) for group in groups]}
    if user:
        grant["user"] = names.user(user)
    if attrs:
        grant["attrs"] = dict(attrs)
    claims = {
        "iss": ISSUER,
        "aud": "longwire",
        "sub": client,
        "iat": now,
        "exp": now + ttl_s,
        "jti": uuid4().hex,
        "products": {names.product(name): grant for name in (product, *also)},
    }
    return jwt.encode({"alg": "HS256", "kid": "1"}, claims, OctKey.import_key(secret.read_text().strip()))
