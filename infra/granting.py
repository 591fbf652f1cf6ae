"""Reads what a token says of its products: names, groups and attributes are checked, and equal parts are shared."""

from __future__ import annotations

from sys import intern
from typing import Any, Final, NoReturn
from weakref import WeakValueDictionary

from infra.attributes import Attributes, Interned
from infra.documents import Issuer
from infra.grants import BadToken, ProductGrant, Products
from schemas import names

MAX_PRODUCTS: Final = 256
MAX_ATTRS: Final = 32
MAX_ATTR_BYTES: Final = 256
ANY_GROUP: Final = "*"
_KNOWN: Final = 1024
"""Product lists, and lifetimes, that are shared; a further one is a token's own."""


class Granter:
    """Reads `products`, and knows the parts that are shared: what equals one of them was checked when that was made."""

    def __init__(self) -> None:
        self._interned = Interned()
        self._attrs: WeakValueDictionary[tuple[tuple[str, str], ...], Attributes] = WeakValueDictionary()
        self._groups: WeakValueDictionary[tuple[str, ...], frozenset[str]] = WeakValueDictionary()
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._times: dict[Any, Any] = {}  # floats: as objects, also where this is compiled

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

    def shared(self, value: Any) -> Any:
        """An equal object (a float) that others hold too: tokens of an issuer mostly live equally long. Any: compiled, a float is
        no object, and what comes back would be another one."""
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
