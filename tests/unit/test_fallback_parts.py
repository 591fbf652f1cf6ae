"""The parts of the fallback that need no broker: slots, due times, batches, and what a webhook's URL may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from redis.crc import key_slot

from infra.documents import Product
from infra.register.slots import SLOTS, due_key, slot_of_client, tags
from schemas import names
from schemas.records import Fallback, PushMessage
from workers.coordinator.fallback import BATCH, BATCH_BYTES, Taken, batches_of
from workers.runner import Incoming
from workers.stored import LAST_CALL_MS, to_store


def test_every_slot_has_an_index_of_its_own_that_lies_in_it() -> None:
    assert len(set(tags())) == SLOTS
    assert all(key_slot(due_key(slot).encode()) == slot for slot in range(SLOTS))


@given(st.from_regex(r"[A-Za-z0-9._:@=+~-]{1,128}", fullmatch=True))
def test_a_clients_due_index_lies_in_the_slot_of_its_other_keys(client: str) -> None:
    key = names.client_key("main", client)
    assert key_slot(due_key(slot_of_client(key)).encode()) == key_slot(names.pending_key(key, "shop").encode())


@given(after=st.integers(1, 100), ttl=st.integers(1, 100))
def test_what_is_due_is_due_before_it_expires_and_not_before_it_was_accepted(after: int, ttl: int) -> None:
    accepted = 1_000_000
    expires = accepted + 1000 * ttl
    message = PushMessage(id="m", product="p", client="c", fallback_after_s=min(after, ttl))
    due = to_store(message, accepted, expires).due_ms
    assert due is not None
    assert accepted <= due <= accepted + 1000 * after
    assert due == accepted + 1000 * min(after, ttl) or due == max(accepted, expires - LAST_CALL_MS)
    assert to_store(message, accepted, expires, handed=True).due_ms == 0


def test_given_no_fallback_then_nothing_is_due() -> None:
    stored = to_store(PushMessage(id="m", product="p", client="c"), 1, 2, handed=True)
    assert (stored.due_ms, stored.body.accepted_ms) == (None, 0)


@given(st.lists(st.integers(0, 64 * 1024), max_size=250))
def test_batches_are_bounded_in_records_and_bytes_and_keep_the_order(sizes: list[int]) -> None:
    taken = [_taken(number, size) for number, size in enumerate(sizes)]
    batches = batches_of(taken)
    assert [each for batch in batches for each in batch] == taken
    assert all(0 < len(batch) <= BATCH for batch in batches)
    assert all(len(batch) == 1 or sum(len(each.record.payload) for each in batch) <= BATCH_BYTES for batch in batches)


def _taken(number: int, size: int) -> Taken:
    record = Fallback(
        id=str(number), product="p", realm="main", client="c", user=None, payload=bytes(size), content_type=None, properties={},
        accepted_ms=0, reason="",
    )  # fmt: skip
    return Taken(Incoming(names.FALLBACK, 0, number, 0, None, b""), record)


@pytest.mark.parametrize(
    "url", ["https://push.example/hook?a=b", "http://127.0.0.1:80/x", "http://localhost/x", "http://[::1]:8/x"]
)
def test_given_a_good_webhook_then_it_is_kept(url: str) -> None:
    assert Product(name="shop", fallback_webhook=url).fallback_webhook == url


@pytest.mark.parametrize(
    "url",
    [
        "", "hook", "http://push.example/hook", "http://10.0.0.1/x", "ftp://push.example", "https://", "https://a b/",
        "https://u:p@h/", "https://h/#f", "https://h:99999/", "https://h/\n", "https://h/\u00e9",
        "http://127.0.0.1.evil.example/", "https://" + "h" * 2048,
    ],
)  # fmt: skip
def test_given_a_bad_webhook_then_the_product_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        Product(name="shop", fallback_webhook=url)
