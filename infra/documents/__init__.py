"""The typed documents that configure Longwire at run time; infra.keeper keeps them in sync in every process."""

from infra.documents.base import Document
from infra.documents.issuers import MAX_SET, ApiGrant, ApiIssuer, Issuer, KeySet, Signer, SigningKey, check_kids
from infra.documents.keys import ACCESS, POLICY, api_issuer_key, document_class, issuer_key, key_set_key, product_key
from infra.documents.policies import Access, Network, Policy, Rules
from infra.documents.products import MAX_PENDING, MAX_QUEUE_RATE, FrequencyCap, Health, Product, Queue
from infra.documents.webhooks import Endpoint

__all__ = [
    "ACCESS",
    "MAX_PENDING",
    "MAX_QUEUE_RATE",
    "MAX_SET",
    "POLICY",
    "Access",
    "ApiGrant",
    "ApiIssuer",
    "Document",
    "Endpoint",
    "FrequencyCap",
    "Health",
    "Issuer",
    "KeySet",
    "Network",
    "Policy",
    "Product",
    "Queue",
    "Rules",
    "Signer",
    "SigningKey",
    "api_issuer_key",
    "check_kids",
    "document_class",
    "issuer_key",
    "key_set_key",
    "product_key",
]
