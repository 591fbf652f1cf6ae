"""What every document of the keeper is, and the URLs that documents name."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Document(BaseModel):
    """A document of the keeper: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def outward(value: str, what: str) -> str:
    """An https URL, or http to this very machine; no user, password or fragment."""
    url = urlsplit(value)
    if not value.isascii() or not value.isprintable() or " " in value or not url.hostname or url.port == 0:
        raise ValueError("is not a URL")
    if url.username is not None or url.fragment:
        raise ValueError(f"the URL of {what} has no user, password or fragment")
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in LOOPBACK):
        raise ValueError(f"{what} is https, or http on a loopback address")
    return value
