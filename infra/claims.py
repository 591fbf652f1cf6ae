"""What a JWT says, as it is read: before its signature was checked nothing of it is believed."""

from __future__ import annotations

from typing import Any

import msgspec


class Header(msgspec.Struct):
    """By what it was signed, as it says."""

    alg: str
    kid: str = ""
    crit: Any = msgspec.UNSET


class Claims(msgspec.Struct):
    """Read before the signature was checked, so that the key can be found; only `iss` is used until then."""

    iss: str
    aud: Any = None
    sub: Any = None
    exp: Any = None
    nbf: Any = None
    iat: Any = None
    jti: Any = None
    products: msgspec.Raw = msgspec.Raw()
