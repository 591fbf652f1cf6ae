"""Where documents are in the bucket `keeper`.

`products.<product>`, `issuers.<label>`, `apiissuers.<label>`, `keysets.<hash>`, `policy`, `access`.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from infra.documents.base import Document
from infra.documents.issuers import ApiIssuer, Issuer, KeySet
from infra.documents.policies import Access, Policy
from infra.documents.products import Product
from schemas import names

POLICY: Final = "policy"
ACCESS: Final = "access"
_KINDS: Final[dict[str, type[Document]]] = {
    "products": Product,
    "issuers": Issuer,
    "apiissuers": ApiIssuer,
    "keysets": KeySet,
    POLICY: Policy,
    ACCESS: Access,
}


def document_class(key: str) -> type[Document] | None:
    """What is under a key; None: no such kind of document."""
    return _KINDS.get(key.partition(".")[0])


def product_key(product: str) -> str:
    """The key of a product's document."""
    return f"products.{names.product(product)}"


def issuer_key(name: str) -> str:
    """The key of an issuer's document; `name` is a label, the `iss` claim is inside."""
    return f"issuers.{names.product(name)}"


def api_issuer_key(name: str) -> str:
    """The key of the document of an issuer of tokens for the HTTP API; `name` is a label."""
    return f"apiissuers.{names.product(name)}"


def key_set_key(iss: str) -> str:
    """The key of what an issuer's JWKS held; an `iss` may be any text."""
    return f"keysets.{blake2b(iss.encode(), digest_size=16).hexdigest()}"
