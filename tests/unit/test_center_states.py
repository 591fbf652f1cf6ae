"""`GET /v1/messages/{id}`: what is concluded from the record, the register and receipts, and what is not."""

from __future__ import annotations

from typing import Any

import pytest
from center_world import NOW_MS, World
from journal_twin import APPEND_MS

from infra.documents import Product
from infra.register import PendingItem, Standing, Stored
from schemas.codes import State
from schemas.records import Receipt
from workers.center.web.paging import cursor_of

ID = "0198c0de-7a5b-7cc3-9d2e-0f1a2b3c4d5e"
ACKED_MS = APPEND_MS + 700


@pytest.fixture
def world() -> World:
    world = World()
    world.documents.products["other"] = Product(name="other")
    return world


async def send(world: World, **body: Any) -> str:
    async with world.client() as http:
        key = body.pop("key", "")
        headers = {"Idempotency-Key": key} if key else {}
        answer = await http.post("/v1/messages", json={"product": "shop", "payload": "x", **body}, headers=headers)
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


async def ask(world: World, message: str, **params: Any) -> Any:
    async with world.client() as http:
        return await http.get(f"/v1/messages/{message}", params=params)


async def state(world: World, message: str, **params: Any) -> dict[str, Any]:
    answer = await ask(world, message, **params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def stands(world: World, message: str, standing: Standing, *, client: str = "phone-1") -> None:
    world.standings.found[f"main:{client}", "shop", message] = standing


def receipt(world: World, message: str, state: State, *, client: str = "phone-1", at_ms: int = ACKED_MS, **more: Any) -> None:
    made = Receipt(id=message, product="shop", realm="main", client=client, state=state, at_ms=at_ms)
    world.log.written.append(Receipt(**{**{name: getattr(made, name) for name in made.__struct_fields__}, **more}))


# --- one client --------------------------------------------------------------------------------------------------------


async def test_given_what_nobody_has_touched_then_it_is_accepted(world: World) -> None:
    message = await send(world, client="phone-1")
    found = await state(world, message)
    assert found == {
        "id": message,
        "product": "shop",
        "realm": "main",
        "user": None,
        "qos": 1,
        "state": "accepted",
        "at_ms": None,
        "detail": None,
        "accepted_ms": APPEND_MS,
        "as_of_ms": NOW_MS,
        "clients": [
            {"client": "phone-1", "state": "accepted", "at_ms": None, "detail": None, "expires_ms": None, "handed_over": False}
        ],
        "clients_total": 1,
        "whole": True,
    }


async def test_given_what_is_pending_then_it_is_stored_and_no_receipt_is_read(world: World) -> None:
    message = await send(world, client="phone-1")
    stands(world, message, Standing(NOW_MS, expires_ms=NOW_MS + 1, handed=True))
    found = await state(world, message)
    assert (found["state"], found["clients"][0]["expires_ms"]) == ("stored", NOW_MS + 1)
    assert found["clients"][0]["handed_over"]
    assert world.log.asked == []


async def test_given_what_is_pending_and_over_its_time_then_it_is_expired_since_then(world: World) -> None:
    message = await send(world, client="phone-1")
    stands(world, message, Standing(NOW_MS, expires_ms=NOW_MS - 5))
    found = await state(world, message)
    assert (found["state"], found["at_ms"]) == ("expired", NOW_MS - 5)


@pytest.mark.parametrize("end", ["acked", "written", "expired", "replaced", "evicted"])
async def test_given_what_the_register_has_settled_then_it_says_how_and_when_and_no_receipt_is_read(
    world: World, end: str
) -> None:
    message = await send(world, client="phone-1")
    stands(world, message, Standing(NOW_MS, settled_ms=ACKED_MS, state=State(end)))
    found = await state(world, message)
    assert (found["state"], found["at_ms"], world.log.asked) == (end, ACKED_MS, [])


@pytest.mark.parametrize("end", ["rejected", "dead"])
async def test_given_an_end_with_a_reason_then_the_receipt_tells_it(world: World, end: str) -> None:
    message = await send(world, client="phone-1")
    stands(world, message, Standing(NOW_MS, settled_ms=ACKED_MS, state=State(end)))
    receipt(world, message, State(end), detail="0x87")
    found = await state(world, message)
    assert (found["state"], found["detail"]) == (end, "0x87")
    assert world.log.asked == [{"phone-1": ACKED_MS - 10_000}], "read from then on, not from its acceptance"


async def test_given_what_was_settled_before_ends_were_kept_then_the_receipt_tells_how_else_it_is_unknown(world: World) -> None:
    message = await send(world, client="phone-1")
    stands(world, message, Standing(NOW_MS, settled_ms=ACKED_MS))
    assert (await state(world, message))["state"] == "unknown"
    receipt(world, message, State.WRITTEN)
    assert (await state(world, message))["state"] == "written"


async def test_given_what_the_register_has_forgotten_then_the_receipt_tells_it(world: World) -> None:
    message = await send(world, client="phone-1")
    receipt(world, message, State.ACKED)
    found = await state(world, message)
    assert (found["state"], found["at_ms"]) == ("acked", ACKED_MS)
    assert world.log.asked == [{"phone-1": APPEND_MS - 10_000}]


async def test_given_a_bound_that_was_hit_then_nothing_is_concluded_from_what_was_not_found(world: World) -> None:
    message = await send(world, client="phone-1")
    world.log.whole = False
    found = await state(world, message)
    assert (found["state"], found["whole"]) == ("unknown", False)
    receipt(world, message, State.ACKED)
    found = await state(world, message)
    assert (found["state"], found["whole"]) == ("acked", True), "what was found is true all the same"


async def test_given_an_ack_that_a_limit_had_overtaken_then_it_arrived(world: World) -> None:
    message = await send(world, client="phone-1")
    receipt(world, message, State.REPLACED)
    receipt(world, message, State.ACKED, at_ms=ACKED_MS + 1)
    found = await state(world, message, trace=True)
    assert [each["state"] for each in found["clients"][0]["trace"]][:1] == ["replaced"]
    stands(world, message, Standing(NOW_MS, settled_ms=ACKED_MS + 1, state=State.ACKED))
    assert (await state(world, message))["state"] == "acked"


async def test_given_another_realm_or_product_with_the_same_client_and_id_then_its_receipts_are_not_taken(world: World) -> None:
    message = await send(world, client="phone-1")
    receipt(world, message, State.ACKED, realm="elsewhere")
    receipt(world, message, State.ACKED, product="other")
    assert (await state(world, message))["state"] == "accepted"


async def test_given_a_product_with_a_queue_of_its_own_then_what_waits_there_is_moved(world: World) -> None:
    message = await send(world, client="phone-1")
    receipt(world, message, State.MOVED)
    assert (await state(world, message))["state"] == "moved"


async def test_given_qos_0_then_its_state_is_unknown_and_that_is_said(world: World) -> None:
    message = await send(world, client="phone-1", qos=0)
    found = await state(world, message)
    assert (found["state"], found["detail"]) == ("unknown", "QoS 0: it is never stored, and has no receipt")


async def test_given_a_trace_then_all_receipts_are_shown_also_of_what_the_register_knows(world: World) -> None:
    message = await send(world, client="phone-1")
    receipt(world, message, State.MOVED)
    receipt(world, message, State.FALLBACK, at_ms=ACKED_MS + 1)
    stands(world, message, Standing(NOW_MS, expires_ms=NOW_MS + 5000, handed=True))
    found = await state(world, message, trace=True)
    assert found["state"] == "stored"
    assert found["clients"][0]["trace"] == [
        {"state": "moved", "at_ms": ACKED_MS, "detail": None},
        {"state": "fallback", "at_ms": ACKED_MS + 1, "detail": None},
    ]


async def test_given_a_dead_letter_that_was_sent_again_then_what_became_of_it_since_counts(world: World) -> None:
    message = await send(world, client="phone-1")
    receipt(world, message, State.DEAD, detail="unknown product shop")
    assert (await state(world, message))["state"] == "dead"
    stands(world, message, Standing(NOW_MS, expires_ms=NOW_MS + 5))
    assert (await state(world, message, trace=True))["state"] == "stored"
    world.standings.found.clear()
    receipt(world, message, State.EXPIRED, at_ms=ACKED_MS + 1)
    assert (await state(world, message))["state"] == "expired"
    receipt(world, message, State.ACKED, at_ms=ACKED_MS + 2)
    receipt(world, message, State.WRITTEN, at_ms=ACKED_MS + 3)
    found = await state(world, message, trace=True)
    assert (found["state"], found["at_ms"]) == ("expired", ACKED_MS + 1), "read as far as its end: no trace goes beyond"


async def test_given_an_ack_whose_removal_is_under_way_then_it_is_acked(world: World) -> None:
    message = await send(world, client="phone-1")
    stands(world, message, Standing(NOW_MS, expires_ms=NOW_MS + 5))
    receipt(world, message, State.ACKED)
    assert (await state(world, message, trace=True))["state"] == "acked"


# --- the register is away ----------------------------------------------------------------------------------------------


async def test_given_a_register_that_is_being_folded_then_an_end_is_told_by_its_receipt_and_all_else_is_503(world: World) -> None:
    message = await send(world, client="phone-1")
    world.standings.down = True
    answer = await ask(world, message)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:longwire:problem:register-down")
    assert answer.headers["retry-after"] == "2"
    receipt(world, message, State.ACKED)
    assert (await state(world, message))["state"] == "acked"


async def test_given_kafka_down_then_503(world: World) -> None:
    message = await send(world, client="phone-1")
    world.log.down = True
    answer = await ask(world, message)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:longwire:problem:journal-down")


# --- users -------------------------------------------------------------------------------------------------------------


async def test_given_a_users_message_then_each_of_its_clients_has_its_own_state(world: World) -> None:
    message = await send(world, user="ann")
    found = await state(world, message)
    assert (found["state"], found["clients"], found["clients_total"]) == ("accepted", [], None)
    receipt(world, message, State.EXPANDED, client="ann", count=2, detail="user phone-1 tablet-1")
    stands(world, message, Standing(NOW_MS, settled_ms=ACKED_MS, state=State.ACKED))
    stands(world, message, Standing(NOW_MS, expires_ms=NOW_MS + 1), client="tablet-1")
    found = await state(world, message)
    assert (found["state"], found["user"], found["clients_total"]) == ("expanded", "ann", 2)
    assert [(each["client"], each["state"]) for each in found["clients"]] == [("phone-1", "acked"), ("tablet-1", "stored")]


async def test_given_a_user_without_clients_then_its_message_is_dead_with_the_reason(world: World) -> None:
    message = await send(world, user="ann")
    receipt(world, message, State.DEAD, client="", detail="user ann has no clients in shop")
    found = await state(world, message)
    assert (found["state"], found["detail"], found["at_ms"]) == ("dead", "user ann has no clients in shop", ACKED_MS)


async def test_given_a_users_dead_letter_that_was_sent_again_then_it_is_expanded(world: World) -> None:
    message = await send(world, user="ann")
    receipt(world, message, State.DEAD, client="", detail="user ann has no clients in shop")
    receipt(world, message, State.EXPANDED, client="ann", count=1, detail="user phone-1")
    found = await state(world, message)
    assert (found["state"], [each["client"] for each in found["clients"]]) == ("expanded", ["phone-1"])


async def test_given_a_users_message_and_a_bound_that_was_hit_then_it_is_unknown_whether_it_is_expanded(world: World) -> None:
    message = await send(world, user="ann")
    world.log.whole = False
    found = await state(world, message)
    assert (found["state"], found["whole"]) == ("unknown", False)


# --- how it is found ---------------------------------------------------------------------------------------------------


async def test_given_a_uuid_then_it_is_sought_by_its_time_and_a_key_by_when_it_was_used(world: World) -> None:
    message = await send(world, client="phone-1")
    await state(world, message)
    assert world.log.searched[-1].times_ms == (int(message.replace("-", "")[:12], 16),)
    keyed = await send(world, client="phone-1", key="order 7")
    assert (await state(world, keyed))["state"] == "accepted"
    assert world.log.searched[-1].times_ms == (APPEND_MS,)


async def test_given_an_id_without_a_time_then_client_or_user_is_asked_for(world: World) -> None:
    message = await send(world, client="phone-1", id="order-7")
    answer = await ask(world, message)
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:longwire:problem:client-needed")
    assert (await state(world, message, client="phone-1"))["state"] == "accepted"
    assert world.log.searched[-1].key == "phone-1"


async def test_given_a_key_and_redis_away_then_client_is_asked_for(world: World) -> None:
    keyed = await send(world, client="phone-1", key="order 7")
    world.keys.down = True
    assert (await ask(world, keyed)).json()["type"] == "urn:longwire:problem:client-needed"


async def test_given_an_id_that_the_register_knows_though_its_record_is_gone_then_it_is_told_without_its_acceptance(
    world: World,
) -> None:
    stands(world, "order-7", Standing(NOW_MS, settled_ms=ACKED_MS, state=State.ACKED))
    found = await state(world, "order-7", client="phone-1")
    assert (found["state"], found["accepted_ms"], found["product"]) == ("acked", None, "shop")


async def test_given_only_a_receipt_then_it_is_told(world: World) -> None:
    receipt(world, "order-7", State.DEAD, detail="unknown product shop")
    found = await state(world, "order-7", client="phone-1")
    assert (found["state"], found["detail"]) == ("dead", "unknown product shop")


@pytest.mark.parametrize(
    ("params", "whole", "expected"),
    [
        ({}, True, (404, "unknown-message", True)),
        ({}, False, (400, "client-needed", None)),
        ({"client": "phone-1"}, True, (404, "unknown-message", True)),
        ({"client": "phone-1"}, False, (404, "unknown-message", False)),
        ({"product": "none"}, True, (404, "unknown-product", None)),
        ({"client": "a", "user": "b"}, True, (400, "bad-input", None)),
        ({"client": "*"}, True, (400, "bad-input", None)),
        ({"realm": "A"}, True, (400, "bad-input", None)),
    ],
)
async def test_given_no_such_message_then_it_is_said_whether_everything_was_looked_at(
    world: World, params: dict[str, str], whole: bool, expected: tuple[int, str, bool | None]
) -> None:
    world.log.whole = whole
    answer = await ask(world, ID, **params)
    kind = answer.json()["type"].removeprefix("urn:longwire:problem:")
    assert (answer.status_code, kind, answer.json().get("whole")) == expected


async def test_given_another_products_message_then_it_is_the_same_404_as_none(world: World) -> None:
    message = await send(world, client="phone-1")
    answers = [await ask(world, message, product="other"), await ask(world, ID, product="other")]
    assert [(each.status_code, each.json()["type"]) for each in answers] == [(404, "urn:longwire:problem:unknown-message")] * 2
    assert answers[0].json()["detail"].replace(message, ID) == answers[1].json()["detail"]


async def test_given_a_broadcasts_id_then_the_404_says_where_it_is(world: World) -> None:
    world.jobs.put(job=ID, product="shop", state="running")
    answer = await ask(world, ID)
    assert answer.status_code == 404
    assert f"/v1/broadcasts/{ID}" in answer.json()["detail"]


# --- what is pending ---------------------------------------------------------------------------------------------------


async def test_given_pending_messages_then_they_are_listed_page_by_page(world: World) -> None:
    items = [PendingItem(n, f"m{n}", Stored(b"body"), 30) for n in range(1, 6)]
    world.pending.items["main:phone-1", "shop"] = items
    seen, cursor = [], ""
    async with world.client() as http:
        while True:
            params = {"product": "shop", "limit": 2, **({"cursor": cursor} if cursor else {})}
            page = (await http.get("/v1/clients/phone-1/messages", params=params)).json()
            seen.append([item["id"] for item in page["items"]])
            if not (cursor := page["next"]):
                break
    assert seen == [["m1", "m2"], ["m3", "m4"], ["m5"]]


@pytest.mark.parametrize(
    "cursor", ["x", "2", cursor_of(-1), cursor_of(1 << 53), cursor_of("2"), cursor_of(2, 2), cursor_of(True)]
)
async def test_given_a_cursor_that_no_page_gave_then_400(world: World, cursor: str) -> None:
    async with world.client() as http:
        answer = await http.get("/v1/clients/phone-1/messages", params={"product": "shop", "cursor": cursor})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "cursor")


@pytest.mark.parametrize("params", [{}, {"product": "shop", "limit": 0}])
async def test_given_a_list_of_nothing_sensible_then_400(world: World, params: dict[str, str]) -> None:
    async with world.client() as http:
        assert (await http.get("/v1/clients/phone-1/messages", params=params)).status_code == 400
