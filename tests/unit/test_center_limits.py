"""How often a key may ask, and how much of a center it may hold; wrong keys, and what none of it costs the others."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from center_world import KEY, SharedTwin, World
from starlette.types import Message

from tests.unit.center_routes import application
from workers.center.callers.auth import OPERATOR, Caller, Role
from workers.center.callers.keycheck import WRONG_BURST
from workers.center.callers.limits import Limits
from workers.center.web.problems import Problem


def caller(rate: int = 100, key: str = "k1") -> Caller:
    return Caller(key=key, products=None, roles=frozenset(Role), rate=rate)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def admitted(limits: Limits, who: Caller, times: int) -> int:
    """How many of so many requests are let through."""
    found = 0
    for _ in range(times):
        with contextlib.suppress(Problem):
            await limits.admit(who)
            found += 1
    return found


async def test_given_requests_then_a_tenth_of_a_second_of_them_is_taken_at_once() -> None:
    shared = SharedTwin()
    limits = Limits(shared, clock=Clock())
    assert await admitted(limits, caller(), 25) == 25
    assert shared.asked == [("k1", 100, 100, 10)] * 3


async def test_given_many_at_once_then_one_asks_for_all() -> None:
    shared = SharedTwin()
    limits = Limits(shared, clock=Clock())
    await asyncio.gather(*(limits.admit(caller()) for _ in range(10)))
    assert len(shared.asked) == 1


async def test_given_no_more_then_429_and_redis_is_left_alone_until_there_is_one() -> None:
    shared, clock = SharedTwin(left=3), Clock()
    limits = Limits(shared, clock=clock)
    assert await admitted(limits, caller(), 50) == 3
    assert len(shared.asked) == 2
    with pytest.raises(Problem) as refused:
        await limits.admit(caller())
    assert refused.value.headers["Retry-After"] == "3"
    clock.now, shared.left = clock.now + 2.6, 1
    assert await admitted(limits, caller(), 5) == 1


async def test_given_a_part_that_was_not_spent_then_it_lapses() -> None:
    shared, clock = SharedTwin(left=10), Clock()
    limits = Limits(shared, clock=clock)
    assert await admitted(limits, caller(), 1) == 1
    clock.now += 1.1
    assert await admitted(limits, caller(), 9) == 0


async def test_given_no_redis_then_this_center_counts_alone_and_asks_it_once_a_second() -> None:
    shared, clock = SharedTwin(down=True), Clock()
    limits = Limits(shared, clock=clock)
    assert await admitted(limits, caller(20), 100) == 20
    assert len(shared.asked) == 1
    clock.now += 0.5
    assert await admitted(limits, caller(20), 100) == 10
    clock.now += 1.0
    shared.down = False
    assert await admitted(limits, caller(20), 10) == 10
    assert len(shared.asked) > 1


async def test_given_the_operator_then_there_is_no_limit() -> None:
    shared = SharedTwin(left=0)
    limits = Limits(shared, most=1)
    assert await admitted(limits, OPERATOR, 1000) == 1000
    with limits.place(OPERATOR), limits.place(OPERATOR):
        assert shared.asked == []


def test_given_a_key_with_all_its_places_then_503_for_it_and_nobody_else() -> None:
    limits = Limits(SharedTwin(), most=2)
    with limits.place(caller()), limits.place(caller()):
        with pytest.raises(Problem, match="in flight"), limits.place(caller()):
            pass
        with limits.place(caller(key="k2")):
            pass
    with limits.place(caller()), limits.place(caller()):
        pass
    assert limits._in_flight == {}


async def test_given_more_keys_than_are_kept_then_the_memory_is_bounded() -> None:
    limits = Limits(SharedTwin(), clock=Clock())
    for i in range(20_100):
        limits._part(f"k{i}")
    assert len(limits._parts) <= 20_000


# --- over HTTP ---------------------------------------------------------------------------------------------------------


async def test_given_a_key_beyond_its_rate_then_429_with_retry_after_and_others_go_on() -> None:
    world = World()
    slow, other = (world.key(Role.READ, rate=5) for _ in range(2))
    world.shared.left = 0
    async with world.client(key=slow) as http:
        answer = await http.get("/v1/rooms")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    assert answer.json()["type"] == "urn:longwire:problem:too-fast"
    world.shared.left = None
    for key in (other, KEY):
        async with world.client(key=key) as http:
            assert (await http.get("/v1/rooms")).status_code == 200


async def test_given_a_flood_of_wrong_keys_then_it_is_told_to_stop_and_good_keys_are_not_concerned() -> None:
    world = World()
    good = world.key(Role.READ)
    async with world.client(key="") as http:
        answers = [await http.get("/v1/rooms", headers={"X-API-Key": f"wrong-{i}"}) for i in range(int(WRONG_BURST) + 5)]
        assert [answer.status_code for answer in answers[: int(WRONG_BURST)]] == [401] * int(WRONG_BURST)
        last = answers[-1]
        assert (last.status_code, last.json()["type"], last.headers["retry-after"]) == (
            429,
            "urn:longwire:problem:too-often",
            "10",
        )
        assert (await http.get("/v1/rooms", headers={"X-API-Key": good})).status_code == 200


@pytest.mark.parametrize(("path", "method"), [("/v1/messages", "POST"), ("/v1/audiences/a", "PUT")])
async def test_given_a_stranger_who_never_sends_the_body_then_the_answer_does_not_wait_for_it(path: str, method: str) -> None:
    async def receive() -> Message:
        raise AssertionError("the body was read")

    found: list[int] = []

    async def send(message: Message) -> None:
        found.append(message.get("status", 0))

    headers = [(b"content-length", b"100")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": b"", "client": ("10.0.0.1", 1)}
    await application(World().parts)(scope, receive, send)
    assert found[0] == 401
