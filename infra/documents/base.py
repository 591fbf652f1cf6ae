"""What every document of the keeper is, and the URLs that documents name."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class Document(BaseModel):
    """A document of the keeper: immutable, and a key it does not know is an error. What an error prints has no values: some
    are secrets."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


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


def _webhook(value: str) -> str:
    return outward(value, "a webhook")


Webhook = Annotated[str, Field(max_length=2048), AfterValidator(_webhook)]
