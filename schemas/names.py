"""Every name that crosses a process border is built and checked here: ids, topics, subjects, groups, keys.

Nothing else in the tree formats a Kafka topic, a NATS subject or a Redis key. An id of a client never becomes part of a
NATS subject, and no id may contain a character that means something to a broker (`*`, `>`, `.` in subjects, `{` `}` in
Redis hash tags, control characters in logs).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

DEFAULT_REALM: Final = "main"

_PRODUCT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_GROUP: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_REALM: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_ROOM: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_ENDPOINT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_CLIENT: Final = re.compile(r"[A-Za-z0-9._:@=+~-]{1,128}")
_USER: Final = re.compile(r"[A-Za-z0-9._:@=+~-]{1,128}")
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_COLLAPSE: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")

PRODUCT_FORM: Final = _PRODUCT.pattern
GROUP_FORM: Final = _GROUP.pattern
REALM_FORM: Final = _REALM.pattern
TYPE_FORM: Final = _TYPE.pattern
CLIENT_FORM: Final = _CLIENT.pattern
USER_FORM: Final = _USER.pattern
ID_FORM: Final = _ID.pattern
COLLAPSE_FORM: Final = _COLLAPSE.pattern
"""For who describes the names."""


class BadName(ValueError):
    """A name that does not fit its form. The text names the kind, the value (shortened) and the form."""


def _check(kind: str, form: re.Pattern[str], value: str) -> str:
    if form.fullmatch(value) is None:
        shown = ascii(value[:40])
        raise BadName(f"{kind} {shown} does not fit {form.pattern}")
    return value


def product(value: str) -> str:
    """Return `value` if it is a product's name, else raise BadName."""
    return _check("product", _PRODUCT, value)


def group(value: str) -> str:
    """Return `value` if it is a group's name, else raise BadName."""
    return _check("group", _GROUP, value)


def realm(value: str) -> str:
    """Return `value` if it is a realm's name, else raise BadName."""
    return _check("realm", _REALM, value)


def room(value: str) -> str:
    """Return `value` if it is a room's id, else raise BadName."""
    return _check("room", _ROOM, value)


def uplink_type(value: str) -> str:
    """Return `value` if it is an uplink's type, else raise BadName."""
    return _check("uplink type", _TYPE, value)


def endpoint(value: str) -> str:
    """Return `value` if it is the name of a product's webhook, else raise BadName."""
    return _check("endpoint", _ENDPOINT, value)


def client(value: str) -> str:
    """Return `value` if it is a client's id, else raise BadName."""
    return _check("client", _CLIENT, value)


def user(value: str) -> str:
    """Return `value` if it is a user's id, else raise BadName."""
    return _check("user", _USER, value)


def message_id(value: str) -> str:
    """Return `value` if it is a message's or job's id, else raise BadName."""
    return _check("id", _ID, value)


def is_message_id(value: str) -> bool:
    """Does it fit? Without the cost of an error where it does not."""
    return _ID.fullmatch(value) is not None


def collapse_key(value: str) -> str:
    """Return `value` if it is a collapse key, else raise BadName."""
    return _check("collapse key", _COLLAPSE, value)


# --- clients across realms ---------------------------------------------------------------------------------------------


def client_key(realm_name: str, client_id: str) -> str:
    """The name of a client in every table: `realm:client`. A realm has no colon, so the first one splits it."""
    return f"{realm_name}:{client_id}"


def split_client_key(key: str) -> tuple[str, str]:
    """`realm:client` → (realm, client)."""
    realm_name, _, client_id = key.partition(":")
    return realm_name, client_id


# --- MQTT topics (docs/protocol.md) ------------------------------------------------------------------------------------


def push_topic(product_name: str, group_name: str = "") -> str:
    """The topic of a bind and of what is pushed to it."""
    return f"push/{product_name}/{group_name}" if group_name else f"push/{product_name}"


@lru_cache(maxsize=1024)
def parse_push_topic(topic: str) -> tuple[str, str]:
    """`push/{product}[/{group}]` → (product, group or ""); raises BadName."""
    parts = topic.split("/")
    if parts[0] != "push" or len(parts) not in (2, 3):
        raise BadName(f"topic {topic[:80]!a} is not push/<product> or push/<product>/<group>")
    return product(parts[1]), group(parts[2]) if len(parts) == 3 else ""


def parse_uplink_topic(topic: str) -> tuple[str, str]:
    """`up/{product}/{type}` → (product, type); raises BadName."""
    parts = topic.split("/")
    if parts[0] != "up" or len(parts) != 3:
        raise BadName(f"topic {topic[:80]!a} is not up/<product>/<type>")
    return product(parts[1]), uplink_type(parts[2])


def parse_pull_topic(topic: str) -> str:
    """`pull/{product}` → product; raises BadName."""
    word, _, name = topic.partition("/")
    if word != "pull":
        raise BadName(f"topic {topic[:80]!a} is not pull/<product>")
    return product(name)


# --- Kafka -------------------------------------------------------------------------------------------------------------

MESSAGES: Final = "push.messages"
BROADCASTS: Final = "push.broadcasts"
JOBS: Final = "push.jobs"
RECEIPTS: Final = "push.receipts"
UPLINK: Final = "push.uplink"
STATUS: Final = "push.status"
CLIENTS: Final = "push.clients"
DEAD: Final = "push.dead"
REGISTER: Final = "push.register"
AUDIENCES: Final = "push.audiences"
FALLBACK: Final = "push.fallback"
RETRIES: Final = "push.retries"
AUDIT: Final = "push.audit"

DELIVERY_GROUP: Final = "longwire-delivery"
BROADCAST_GROUP: Final = "longwire-broadcast"
COORDINATOR_GROUP: Final = "longwire-coordinator"
FALLBACK_GROUP: Final = "longwire-fallback"
STATUS_GROUP: Final = "longwire-status"
RECEIPTS_GROUP: Final = "longwire-receipts"


def queue_topic(product_name: str) -> str:
    """A large product's own queue: what is in `MESSAGES` for others, of this product alone."""
    return f"{MESSAGES}.{product(product_name)}"


def queue_product(topic: str) -> str:
    """`push.messages.{product}` → product; raises BadName."""
    head, _, name = topic.rpartition(".")
    if head != MESSAGES:
        raise BadName(f"topic {topic[:80]!a} is not {MESSAGES}.<product>")
    return product(name)


def queue_group(product_name: str) -> str:
    """The consumer group of a product's own queue: its rebalances and its pace are nobody else's."""
    return f"{DELIVERY_GROUP}.{product(product_name)}"


def retry_key(product_name: str, endpoint_name: str, event: str) -> str:
    """The compaction key of an event that waits for its webhook."""
    return f"{product_name}/{endpoint_name}/{event}"


def parse_retry_key(key: str) -> tuple[str, str, str]:
    """`product/endpoint/event` → its parts; raises BadName."""
    parts = key.split("/")
    if len(parts) != 3:
        raise BadName(f"key {key[:80]!a} is not <product>/<endpoint>/<event>")
    return product(parts[0]), endpoint(parts[1]), message_id(parts[2])


def job_key(job: str, term: int) -> str:
    """The compaction key of a job's record: every owner writes under its own term (docs/design.md, broadcast)."""
    return f"{job}/{term}"


def audience_key(product_name: str, audience: str) -> str:
    """The key of an audience's chunks: one audience lies in one partition, in order, and each product names its own."""
    return f"{product_name}/{audience}"


def job_claim_key(job: str, claim: str) -> str:
    """The key of a claim, whose offset becomes the term: it can't name it yet, so it names the claim (a random text)."""
    return f"{job}/new-{claim}"


def parse_job_key(key: str, offset: int) -> tuple[str, int]:
    """A key in `push.jobs` and its record's offset → (job, term); raises BadName."""
    job, slash, term = key.rpartition("/")
    if not slash or not (term.startswith("new-") or term.isdecimal()):
        raise BadName(f"key {key[:80]!a} is not <job>/<term> or <job>/new-<claim>")
    return message_id(job), offset if term.startswith("new-") else int(term)


# --- NATS --------------------------------------------------------------------------------------------------------------

ROOMS_ANNOUNCE: Final = "rooms.announce"
ROOMS_LEASE: Final = "rooms.lease"
SAVER_CONNECT: Final = "saver.connect"
SAVER_BIND: Final = "saver.bind"
SAVER_SYNC: Final = "saver.sync"
SAVER_UNBIND: Final = "saver.unbind"
SAVER_DISCONNECT: Final = "saver.disconnect"
SAVER_PULL: Final = "saver.pull"
SAVER_CONFIRM: Final = "saver.confirm"
SAVER_QUEUE: Final = "saver"
COORDINATOR_UPLINK: Final = "coordinator.uplink"
COORDINATOR_QUEUE: Final = "coordinator"

REGISTER_OPENED: Final = "register.opened"
"""A hint to rooms: Redis lost something and is ready again; they register their sessions again."""

KV_KEEPER: Final = "keeper"
KV_ROOMS: Final = "rooms"
KV_JOBS: Final = "jobs"
KV_REVOCATIONS: Final = "revocations"
KV_API_KEYS: Final = "apikeys"
KV_SECRETS: Final = "secrets"
KV_APPROVALS: Final = "approvals"
"""In the bucket `secrets`: by what confirmations of broadcasts are signed."""
KV_TTL_S: Final = {KV_JOBS: 30 * 24 * 3600, KV_REVOCATIONS: 370 * 24 * 3600, KV_SECRETS: 24 * 3600}
"""Seconds after its last put for which a bucket has an entry, where it does not keep it for ever. The owner of a job that is not
over puts its entry again all the time, so this is how long the API shows one that is."""


def room_push(room_id: str) -> str:
    """Subject of hints (and fire-and-forget messages) for a room."""
    return f"room.{room_id}.push"


def room_slice(room_id: str) -> str:
    """Subject of a broadcast's slices for a room."""
    return f"room.{room_id}.slice"


def room_control(room_id: str) -> str:
    """Subject of control requests for a room: announce, kick."""
    return f"room.{room_id}.control"


def service_subject(product_name: str, type_name: str) -> str:
    """Subject of a product's NATS service for one uplink type: both are checked names, never a client's text."""
    return f"app.{product(product_name)}.{uplink_type(type_name)}"


def kv_job_key(job: str) -> str:
    """A job's key in the bucket `jobs`: KV keys allow no colon, nor a dot at an end or beside another."""
    return job.replace(":", "_").replace(".", "=")


# --- Redis: everything of a client lies in one slot by the hash tag {realm:client} --------------------------------------


def session_key(key: str) -> str:
    """HASH: generation, number, room, epoch, connection, and a field `b:<product>` for every bind."""
    return f"s:{{{key}}}"


def counter_key(key: str) -> str:
    """STRING: the client's session counter, which outlives its sessions."""
    return f"c:{{{key}}}"


def guard_key(key: str) -> str:
    """HASH: the never-ack guard, `<product> <id>` → `<connections> <since, ms>`."""
    return f"g:{{{key}}}"


def owed_key(key: str) -> str:
    """HASH: receipts that are owed to Kafka, `<product> <id>` → state."""
    return f"o:{{{key}}}"


def pending_key(key: str, product_name: str) -> str:
    """ZSET: pending ids by (class, n)."""
    return f"q:{{{key}}}:{product_name}"


def bodies_key(key: str, product_name: str) -> str:
    """HASH: id → what is pending."""
    return f"m:{{{key}}}:{product_name}"


def number_key(key: str, product_name: str) -> str:
    """STRING: the store number n of the last message of this (client, product)."""
    return f"n:{{{key}}}:{product_name}"


def settled_key(key: str, product_name: str) -> str:
    """ZSET: settled ids by the time they were settled, ms."""
    return f"t:{{{key}}}:{product_name}"


def collapse_index_key(key: str, product_name: str) -> str:
    """HASH: collapse key → the pending id that holds it."""
    return f"k:{{{key}}}:{product_name}"


def due_key(tag: str) -> str:
    """ZSET: the due-index of one hash slot, `<pending key> <id>` by when its fallback is due, ms. `tag` is a text that hashes to
    the slot: a client's scripts may name it beside the client's own keys (docs/adr/0011)."""
    return f"d:{{{tag}}}"


def due_member(key: str, product_name: str, message_id: str) -> str:
    """A message in the due-index."""
    return f"{pending_key(key, product_name)} {message_id}"


def parse_due_member(member: str) -> tuple[str, str, str]:
    """A member of the due-index → (key, product, id)."""
    pending, _, message_id = member.rpartition(" ")
    key, _, product_name = pending[3:].rpartition("}:")
    return key, product_name, message_id


def due_slots_key(marker: str) -> str:
    """ZSET of one Redis server: hash slots by the first due time in them, ms. A hint; `marker` is the server's own key."""
    return f"{marker}:due"


def first_bind_key(key: str, product_name: str) -> str:
    """HASH: when the client first bound this product, ms (`at`), its bind as the registry has it (`document`, `user`), which bind
    it is (`bound`), and when the last session that had it ended, ms (`left`)."""
    return f"f:{{{key}}}:{product_name}"


def settled_jobs_key(key: str, product_name: str) -> str:
    """ZSET by expiry, ms: `partition:offset` of settled broadcasts that may still be active, and `partition:offset:second` of
    those that were written then and count for the product's frequency cap."""
    return f"j:{{{key}}}:{product_name}"


def idempotency_key(product_name: str, record: str) -> str:
    """STRING: the digest of the body that came first under the key that decides this record's id (in a slot of its own)."""
    return f"i:{{{product_name}:{record}}}"


def limit_key(name: str) -> str:
    """STRING: when the bucket of a rate that several processes share is full again, ms (in a slot of its own)."""
    return f"l:{{{name}}}"


API_KEYS_USED: Final = "longwire:{apikeys}:used"
"""HASH: the id of an API key → when it was used last, seconds since the epoch."""


def user_key(realm_name: str, product_name: str, user_id: str) -> str:
    """SET: the clients of a user in a product (in a slot of its own)."""
    return f"u:{{{realm_name}:{product_name}:{user_id}}}"


def told_key(key: str) -> str:
    """HASH: product → what its webhooks were told last of this client (docs/adr/0023)."""
    return f"w:{{{key}}}"


def presence_key(realm_name: str, product_name: str, user_id: str) -> str:
    """HASH: the clients of a user that its product was told to be connected, and what it was told of the user (in a slot of its
    own)."""
    return f"p:{{{realm_name}:{product_name}:{user_id}}}"
