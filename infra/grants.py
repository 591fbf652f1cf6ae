"""What a token allows. Each connection holds one: parts that are equal are shared, and no garbage collector walks it."""

from __future__ import annotations

from collections.abc import Iterator
from sys import intern
from typing import Final, NoReturn
from weakref import WeakValueDictionary

import msgspec

from infra.attributes import Attributes, Interned
from infra.documents import Issuer
from schemas import names

MAX_PRODUCTS: Final = 256
MAX_ATTRS: Final = 32
MAX_ATTR_BYTES: Final = 256
ANY_GROUP: Final = "*"
_KNOWN: Final = 1024
"""Product lists, and lifetimes, that are shared; a further one is a token's own."""


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


class Granter:
    """Reads `products`, and knows the parts that are shared: what equals one of them was checked when that was made."""

    def __init__(self) -> None:
        self._interned = Interned()
        self._attrs: WeakValueDictionary[tuple[tuple[str, str], ...], Attributes] = WeakValueDictionary()
        self._groups: WeakValueDictionary[tuple[str, ...], frozenset[str]] = WeakValueDictionary()
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._times: dict[float, float] = {}

    def products(self, claim: object, issuer: Issuer) -> Products:
        """What `issuer` grants by this claim. Raises BadToken."""
        if not isinstance(claim, dict) or not claim:
            _forbidden("the token names no products")
        if len(claim) > MAX_PRODUCTS:
            _forbidden(f"the token names {len(claim)} products, more than {MAX_PRODUCTS}")
        if issuer.products:
            for name in claim:
                if name not in issuer.products:
                    _forbidden(f"issuer {issuer.iss[:64]!a} may not sign for product {str(name)[:64]!a}")
        products = self._checked(tuple(claim))
        return Products(products, tuple([self._product(name, body) for name, body in claim.items()]))

    def shared(self, value: float) -> float:
        """An equal object that others hold too: tokens of an issuer mostly live equally long."""
        return self._times.setdefault(value, value) if len(self._times) < _KNOWN else self._times.get(value, value)

    def _checked(self, products: tuple[str, ...]) -> tuple[str, ...]:
        found = self._names.get(products)
        if found is not None:
            return found
        try:
            made = tuple([intern(names.product(name)) for name in products])
        except names.BadName as error:
            _forbidden(f"products: {error}")
        return self._names.setdefault(made, made) if len(self._names) < _KNOWN else made

    def _product(self, name: str, body: object) -> ProductGrant:
        if not isinstance(body, dict):
            _forbidden(f"products.{name[:64]!a} is not an object")
        try:
            user = body.get("user")
            return ProductGrant(
                names.user(_text(user)) if user else "",
                self._groups_of(body.get("groups", ())),
                self._attrs_of(body.get("attrs") or {}),
            )
        except ValueError as error:
            _forbidden(f"products.{name[:64]!a}: {error}")

    def _groups_of(self, value: object) -> frozenset[str] | None:
        if not isinstance(value, list | tuple):
            raise ValueError("groups is not a list")
        if not value:
            return _NO_GROUPS
        if ANY_GROUP in value:
            return None
        key = tuple([_text(item) for item in value])
        found = self._groups.get(key)
        if found is None:
            found = self._groups[key] = frozenset(names.group(item) for item in key)
        return found

    def _attrs_of(self, value: object) -> Attributes:
        if not isinstance(value, dict) or len(value) > MAX_ATTRS:
            raise ValueError(f"attrs is not an object of at most {MAX_ATTRS} texts")
        key = tuple([(name, _text(item)) for name, item in value.items()])
        found = self._attrs.get(key)
        if found is None:
            if any(len(name.encode()) + len(item.encode()) > MAX_ATTR_BYTES for name, item in key):
                raise ValueError(f"an attr has more than {MAX_ATTR_BYTES} bytes")
            found = self._attrs[key] = self._interned.of({intern(name): item for name, item in key})
        return found


_NO_GROUPS: Final[frozenset[str]] = frozenset()


def _forbidden(text: str) -> NoReturn:
    raise BadToken("products", text, forbidden=True) from None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} where text belongs")
    return value
