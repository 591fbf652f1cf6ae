"""`/v1/access`: who may connect. Lists of networks, client ids and patterns of them, which every room obeys at once."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from infra.access import MAX_CLIENTS, MAX_NETWORKS, MAX_PATTERNS, pattern
from infra.documents import Access, Network, Rules
from schemas import names
from workers.center.callers.auth import Role, Who, needs
from workers.center.ports import AccessChange, Parts
from workers.center.web.etags import Words
from workers.center.web.problems import responses

MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")


def _as_rooms_see_it(value: str) -> str:
    found = ipaddress.ip_network(value)
    if isinstance(found, ipaddress.IPv6Network) and found.subnet_of(MAPPED):
        raise ValueError(f"nobody is seen to come from there: name IPv4 as IPv4, {found.network_address.ipv4_mapped}")
    return value


_SHOWN: Final[Any] = {
    200: {"content": {"application/json": {"example": Access(deny=Rules(networks=("203.0.113.0/24",))).model_dump(mode="json")}}}
}


class Entries(BaseModel):
    """Entries of a list. A single address is a network of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    networks: tuple[Network, ...] = Field(default=(), max_length=MAX_NETWORKS)
    clients: tuple[Annotated[str, AfterValidator(names.client)], ...] = Field(default=(), max_length=MAX_CLIENTS)
    patterns: tuple[Annotated[str, AfterValidator(pattern)], ...] = Field(default=(), max_length=MAX_PATTERNS)

    def rules(self) -> Rules:
        """The same, as the document has it."""
        return Rules(networks=self.networks, clients=self.clients, patterns=self.patterns)


class NewEntries(Entries):
    """Entries that come into a list."""

    networks: tuple[Annotated[Network, AfterValidator(_as_rooms_see_it)], ...] = Field(default=(), max_length=MAX_NETWORKS)


class AccessRequest(BaseModel):
    """What comes into a list and what leaves it, all of it or nothing. `uncounted` has networks only."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "list": "deny",
                    "add": {"networks": ["203.0.113.0/24"], "clients": ["phone-7"], "patterns": ["test-*"]},
                    "by": "ann",
                    "reason": "a flood",
                }
            ]
        },
    )

    target: Literal["allow", "deny", "uncounted"] = Field(alias="list")
    add: NewEntries = NewEntries()
    remove: Entries = Entries()
    by: Words = Field(default="api", description="Who: it is kept in `push.audit`.")
    reason: Words | None = None
    confirm: bool = Field(
        default=False,
        strict=True,
        description="Do it even if it shuts out more than it names: a first entry of `allow`, a denied network that has loopback "
        "or very much in it, a pattern that means every id. Also where the document can't be read.",
    )

    @model_validator(mode="after")
    def _check(self) -> AccessRequest:
        added, removed = ({*part.networks, *part.clients, *part.patterns} for part in (self.add, self.remove))
        if not added and not removed:
            raise ValueError("names no entry to add, and none to remove")
        if self.target == "uncounted" and any(part.clients or part.patterns for part in (self.add, self.remove)):
            raise ValueError("uncounted has networks only")
        if both := sorted(added & removed):
            raise ValueError(f"{both[0]} is to be added and removed")
        return self


def router(parts: Parts) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["access"])

    @routes.get(
        "/v1/access",
        dependencies=needs(Role.READ, everywhere=True),
        response_model=Access,
        responses={**_SHOWN, **responses("unauthorized")},
    )
    async def show_access() -> Access:
        """The lists that are in force, as this center knows them."""
        return parts.documents.access

    @routes.post(
        "/v1/access",
        dependencies=needs(Role.ADMIN, everywhere=True),
        response_model=Access,
        responses={
            **_SHOWN,
            **responses(
                *("bad-input", "unauthorized", "unknown-entry", "changed-meanwhile", "confirm-needed", "journal-down", "bus-down")
            ),
        },
    )
    async def change_access(who: Who, request: AccessRequest) -> Access:
        """Add to a list and remove from it. Rooms obey within a moment: they close who is connected and denied
        (0x98) or not allowed any more (0x87). What is there already stays as it is."""
        change = AccessChange(
            target=request.target,
            add=request.add.rules(),
            remove=request.remove.rules(),
            by=who.signed(request.by),
            reason=request.reason,
            confirm=request.confirm,
        )
        return await parts.access.change(change)

    return routes
