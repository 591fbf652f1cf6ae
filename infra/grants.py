"""What a token allows. Each connection holds one: parts that are equal are shared, and no garbage collector walks it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from infra.attributes import Attributes


class BadToken(Exception):
    """A token that is refused: a short kind for a counter, and the text that the client is told. `forbidden`: it is genuine,
    and was revoked, or names no product that its issuer may sign for."""

    def __init__(self, kind: str, text: str, *, forbidden: bool = False) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.forbidden = forbidden


class ProductGrant(msgspec.Struct, frozen=True, gc=False):
    """What a token allows in one product. `groups` None: any. `groups` and `attrs` are shared by all grants of a Verifier that
    equal them."""

    user: str
    groups: frozenset[str] | None
    attrs: Attributes


class Products(msgspec.Struct, frozen=True, gc=False):
    """Product → ProductGrant, as a mapping reads; a dict for each connection would be 150 bytes more. `names` is shared."""

    names: tuple[str, ...]
    grants: tuple[ProductGrant, ...]

    def get(self, product: str) -> ProductGrant | None:
        """The grant for a product, None if there is none."""
        return self.grants[self.names.index(product)] if product in self.names else None

    def items(self) -> Iterator[tuple[str, ProductGrant]]:
        """Products with their grants."""
        return zip(self.names, self.grants, strict=True)

    def __getitem__(self, product: str) -> ProductGrant:
        found = self.get(product)
        if found is None:
            raise KeyError(product)
        return found

    def __contains__(self, product: object) -> bool:
        return product in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class Grant(msgspec.Struct, frozen=True, gc=False):
    """What a token allows: `key` is the client's `realm:client`, `expires_at` in seconds since the epoch, `lifetime` the seconds
    from its `iat` to then (0 where it has none), `mark` stands for its `jti` (0 where it has none)."""

    key: str
    expires_at: float
    products: Products
    lifetime: float = 0.0
    mark: int = 0

    @property
    def issued_at(self) -> float:
        """Seconds since the epoch; 0 where the token does not say."""
        return self.expires_at - self.lifetime if self.lifetime else 0.0


def mark_of(iss: str, jti: str) -> int:
    """What a token is known by in this process: of 64 bits, so that a connection need not hold the text."""
    return hash((iss, jti)) or 1
