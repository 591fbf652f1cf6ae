"""What a webhook gets: the bytes of a request, its id, and its signatures, beside the vectors of Standard Webhooks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from infra.documents import Endpoint, Product
from infra.documents.webhooks import new_secret, secret_bytes
from schemas import names
from workers.webhooks.events import MAX_BODY, Event, batches
from workers.webhooks.signing import signed

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def endpoint(**changes: Any) -> Endpoint:
    given = {"name": "main", "url": "https://shop.example/hook", "secrets": [SECRET], "events": ["*"], **changes}
    return Endpoint.model_validate(given)


def event(number: int = 1, **changes: Any) -> Event:
    fields: dict[str, Any] = {"id": f"e-{number}", "type": "client.connected", "product": "shop", "key": "main:c", "at_ms": 1500}
    return Event(**{**fields, "data": {"n": number}, **changes})


def test_given_the_example_of_standard_webhooks_then_the_signature_is_theirs() -> None:
    headers = signed("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', [SecretStr(SECRET)])
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_given_two_secrets_in_rotation_then_there_is_a_signature_of_each_over_id_timestamp_and_body() -> None:
    one, two = SecretStr(new_secret()), SecretStr(new_secret())
    both = signed("a", 1, b"x", [one, two])["webhook-signature"].split(" ")
    assert both == [signed("a", 1, b"x", [secret])["webhook-signature"] for secret in (one, two)]
    others = [signed("b", 1, b"x", [one]), signed("a", 2, b"x", [one]), signed("a", 1, b"y", [one])]
    assert len({both[0], *(each["webhook-signature"] for each in others)}) == 4


def test_given_events_then_a_request_holds_them_in_order_and_a_repeat_is_the_same_bytes() -> None:
    [first] = batches([event(1), event(2)], 10)
    [again] = batches([event(1), event(2)], 10)
    assert first == again
    assert json.loads(first.body) == {
        "product": "shop",
        "events": [
            {"id": f"e-{n}", "type": "client.connected", "timestamp": "1970-01-01T00:00:01.500Z", "data": {"n": n}}
            for n in (1, 2)
        ],
    }
    assert first.id.startswith("batch-")


def test_given_one_event_then_the_request_has_its_id() -> None:
    assert [batch.id for batch in batches([event(1), event(2)], 1)] == ["e-1", "e-2"]


def test_given_large_events_then_requests_are_bounded_and_one_that_is_too_large_goes_alone() -> None:
    large = [event(n, data={"x": "y" * (MAX_BODY // 3)}) for n in range(5)]
    assert [len(batch.events) for batch in batches([*large, event(9, data={"x": "y" * MAX_BODY})], 100)] == [2, 2, 1, 1]


@pytest.mark.parametrize("bad", ["a b", "a\r\nx: y", "", "ü", "a" * 65])
def test_given_an_id_that_can_be_no_header_then_it_is_refused(bad: str) -> None:
    with pytest.raises(names.BadName):
        event(id=bad)


# --- the document ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"secrets": []},
        {"secrets": [SECRET] * 3},
        {"secrets": [SECRET.removeprefix("whsec_")]},
        {"secrets": ["whsec_MfKQ9r8GKYqrTwjU"]},
        {"secrets": ["whsec_not base64 but long enough for one"]},
        {"events": []},
        {"events": ["uplink.recieved"]},
        {"url": "http://shop.example/hook"},
        {"url": "https://ann:pass@shop.example/"},
        {"url": "https://shop.example/\r\nx"},
        {"url": "ftp://shop.example/"},
        {"name": "Main"},
        {"batch": 0},
        {"timeout": 61},
        {"keep": 400_000},
        {"unknown": 1},
    ],
)
def test_given_an_endpoint_that_does_not_fit_then_it_is_refused_and_no_secret_is_in_the_reason(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        endpoint(**changes)
    for secret in changes.get("secrets", ()):
        assert secret not in str(refused.value)


def test_given_secrets_when_dumped_for_eyes_then_they_are_stars_and_in_the_bucket_they_are_whole() -> None:
    product = Product(name="shop", webhooks=(endpoint(),))
    for shown in (repr(product), str(product), repr(product.model_dump())):
        assert SECRET not in shown
    assert Product.model_validate_json(product.model_dump_json()) == product
    assert secret_bytes(new_secret()) != secret_bytes(new_secret())


def test_given_two_endpoints_of_one_name_or_too_many_then_the_product_is_refused() -> None:
    with pytest.raises(ValidationError, match="webhook main is there twice"):
        Product(name="shop", webhooks=(endpoint(), endpoint()))
    with pytest.raises(ValidationError):
        Product(name="shop", webhooks=tuple(endpoint(name=f"e{n}") for n in range(5)))


def test_given_endpoints_then_each_hears_what_it_wants() -> None:
    everything, clients = endpoint(name="a"), endpoint(name="b", events=["client.connected"])
    orders = endpoint(name="c", events=["uplink.received"], uplinks=["order"])
    product = Product(name="shop", webhooks=(everything, clients, orders))
    assert product.listening("client.connected") == (everything, clients)
    assert product.listening("uplink.received") == (everything, orders)
    assert [each.takes("order") for each in product.webhooks] == [True, False, True]
    assert [each.takes("chat") for each in product.webhooks] == [True, False, False]
