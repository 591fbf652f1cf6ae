"""Own queues by the API: what is shown, what is asked of the switch, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
from center_world import World

from infra.documents import Product, Queue
from schemas import names
from workers.center.operating.switch import MAX_QUEUES, changed, queue_text
from workers.center.ports import QueueChange
from workers.center.web.problems import Problem

SHOP = "/v1/products/shop/queue"


def queued(world: World, **queue: Any) -> World:
    world.documents.products["shop"] = Product(name="shop", queue=Queue(**queue))
    return world


async def test_given_an_own_queue_then_a_message_goes_straight_into_it() -> None:
    world = queued(World(), rate=5)
    async with world.client() as http:
        response = await http.post("/v1/messages", json={"product": "shop", "client": "phone-1", "payload": "x"})
    assert response.status_code == 202
    assert (world.journal.entries[0].topic, world.journal.entries[0].key) == ("push.messages.shop", "phone-1")


async def test_given_queues_then_they_are_listed_and_shown_and_who_has_none_is_404() -> None:
    world = queued(World(), rate=5, paused=True)
    world.documents.products["other"] = Product(name="other")
    async with world.client() as http:
        listed = (await http.get("/v1/queues")).json()
        shown = (await http.get(SHOP)).json()
        missing = await http.get("/v1/products/other/queue")
        unknown = await http.get("/v1/products/nobody/queue")
    assert listed == {"queues": [{"product": "shop", "rate": 5, "paused": True}]}
    assert shown == listed["queues"][0]
    assert missing.json()["type"] == "urn:longwire:problem:unknown-queue"
    assert unknown.json()["type"] == "urn:longwire:problem:unknown-product"


async def test_given_changes_then_the_switch_is_asked_with_who_and_why_and_the_answer_shows_the_outcome() -> None:
    world = World()
    asked = [
        ("rate", {"rate": 100, "by": "ann", "reason": "sale"}, {"rate": 100, "paused": False}),
        ("pause", {"by": "ann"}, {"rate": 100, "paused": True}),
        ("rate", {"rate": 50}, {"rate": 50, "paused": True}),
        ("resume", {}, {"rate": 50, "paused": False}),
        ("off", {}, {"rate": None, "paused": False}),
    ]
    async with world.client() as http:
        for action, body, outcome in asked:
            response = await http.post(f"{SHOP}/{action}", json=body)
            assert (response.status_code, response.json()) == (200, {"product": "shop", **outcome})
    assert world.queues.changes[0] == QueueChange(action="rate", rate=100, by="ann (key operator)", reason="sale")
    assert [change.by for change in world.queues.changes] == [
        f"{by} (key operator)" for by in ("ann", "ann", "api", "api", "api")
    ]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (f"{SHOP}/rate", {}, 400),
        (f"{SHOP}/rate", {"rate": 0}, 400),
        (f"{SHOP}/rate", {"rate": 10_000_001}, 400),
        (f"{SHOP}/rate", {"rate": "fast"}, 400),
        (f"{SHOP}/pause", {"rate": 5}, 400),
        (f"{SHOP}/pause", {"by": "a\u001bb"}, 400),
        (f"{SHOP}/pause", {"by": ""}, 400),
        (f"{SHOP}/pause", {"reason": "x" * 129}, 400),
        (f"{SHOP}/stop", {}, 400),
        (f"{SHOP}/pause", {}, 404),
        ("/v1/products/nobody/queue/rate", {"rate": 5}, 404),
        ("/v1/products/A/queue/rate", {"rate": 5}, 400),
    ],
)
async def test_given_what_does_not_fit_then_a_problem_and_nothing_is_changed(path: str, body: Any, status: int) -> None:
    world = World()
    async with world.client() as http:
        response = await http.post(path, json=body)
    assert response.status_code == status
    assert world.documents.products["shop"].queue is None


async def test_given_no_key_then_401() -> None:
    async with World().client(key="") as http:
        assert (await http.post(f"{SHOP}/pause", json={})).status_code == 401


def test_given_no_queue_then_only_a_rate_makes_one() -> None:
    assert changed("shop", None, QueueChange(action="rate", rate=7, by="ann"), others=0) == Queue(rate=7)
    for action in ("pause", "resume", "off"):
        with pytest.raises(Problem, match="action rate switches one on"):
            changed("shop", None, QueueChange(action=action, by="ann"), others=0)


def test_given_as_many_queues_as_there_may_be_then_no_more_and_those_go_on() -> None:
    change = QueueChange(action="rate", rate=7, by="ann")
    with pytest.raises(Problem, match="switch another one off"):
        changed("shop", None, change, others=MAX_QUEUES)
    assert changed("shop", None, change, others=MAX_QUEUES - 1) == Queue(rate=7)
    assert changed("shop", Queue(rate=5), change, others=MAX_QUEUES) == Queue(rate=7)


@pytest.mark.parametrize(("queue", "text"), [(None, "off"), (Queue(rate=5), "5/s"), (Queue(rate=5, paused=True), "5/s, paused")])
def test_given_a_queue_then_the_audit_shows_it(queue: Queue | None, text: str) -> None:
    assert queue_text(queue) == text


@pytest.mark.parametrize("topic", ["push.messages", "push.messages.", "push.messages.A", "push.messages.a.b", "push.dead.a", "x"])
def test_given_a_topic_that_is_no_own_queue_then_bad_name(topic: str) -> None:
    with pytest.raises(names.BadName):
        names.queue_product(topic)


def test_given_a_product_then_its_topic_names_it_and_a_bad_one_is_refused() -> None:
    assert names.queue_product(names.queue_topic("shop")) == "shop"
    assert names.queue_group("shop") == "longwire-delivery.shop"
    with pytest.raises(names.BadName):
        names.queue_topic("a.b")
