"""Access lists by the API: what is changed, what is refused and why, and that nobody's change is lost."""

from __future__ import annotations

from typing import Any

import pytest
from center_world import World

from infra.access import MAX_CLIENTS, MAX_NETWORKS, MAX_PATTERNS, NOT_COUNTED
from infra.bus import MAX_VALUE
from infra.documents import Access, Rules
from schemas.broadcasts import Audit
from workers.center.operating.access_change import changed
from workers.center.operating.attempts import ATTEMPTS
from workers.center.ports import AccessChange


def having(**lists: Any) -> World:
    world = World()
    world.access.put(Access.model_validate(lists))
    return world


async def post(world: World, **body: Any) -> tuple[int, dict[str, Any]]:
    async with world.client() as http:
        answer = await http.post("/v1/access", json=body)
    return answer.status_code, answer.json()


def kind(problem: dict[str, Any]) -> str:
    return str(problem["type"]).rpartition(":")[2]


def audits(world: World) -> list[Audit]:
    return [record for record in world.journal.records if isinstance(record, Audit)]


# --- what is changed ---------------------------------------------------------------------------------------------------


async def test_given_entries_when_denied_then_the_document_has_them_and_is_answered_and_audited() -> None:
    world = having(deny={"clients": ["c0"]})
    add = {"networks": ["198.51.100.7", "2001:DB8::/32"], "clients": ["phone-7"], "patterns": ["bot-*"]}
    status, shown = await post(world, list="deny", add=add, by="ann", reason="a flood")
    deny = {"networks": ["198.51.100.7/32", "2001:db8::/32"], "clients": ["c0", "phone-7"], "patterns": ["bot-*"]}
    assert (status, shown["deny"], shown["uncounted"]) == (200, deny, list(NOT_COUNTED))
    assert world.access.stored == Access.model_validate(shown)
    [record] = audits(world)
    assert (record.product, record.subject, record.action, record.by, record.reason) == (
        "-",
        "access",
        "deny",
        "ann (key operator)",
        "a flood",
    )
    assert record.before == "0 networks, 1 clients, 0 patterns"
    assert record.after == "2 networks, 2 clients, 1 patterns: +198.51.100.7/32 +2001:db8::/32 +phone-7 +bot-*"


async def test_given_a_list_when_some_leave_and_some_come_then_it_is_one_change() -> None:
    world = having(deny={"networks": ["198.51.100.7/32"], "patterns": ["a*", "b*"]})
    remove = {"networks": ["198.51.100.7"], "patterns": ["a*"]}
    status, shown = await post(world, list="deny", remove=remove, add={"clients": ["c"]})
    assert (status, shown["deny"]) == (200, {"networks": [], "clients": ["c"], "patterns": ["b*"]})
    [record] = audits(world)
    assert (record.by, record.reason) == ("api (key operator)", None)
    assert record.after.endswith(": +c -198.51.100.7/32 -a*")


async def test_given_an_entry_that_means_nobody_when_removed_however_it_is_written_then_it_is_gone() -> None:
    world = having(deny={"networks": ["::ffff:198.51.100.7"]})
    status, shown = await post(world, list="deny", remove={"networks": ["::ffff:c633:6407", "::FFFF:198.51.100.7/128"]})
    assert (status, shown["deny"]["networks"]) == (200, [])


async def test_given_uncounted_networks_when_changed_then_the_default_ones_are_there_until_they_are_removed() -> None:
    world = World()
    status, shown = await post(world, list="uncounted", add={"networks": ["203.0.113.9"]}, remove={"networks": ["10.0.0.0/8"]})
    assert (status, shown["uncounted"]) == (200, [*(item for item in NOT_COUNTED if item != "10.0.0.0/8"), "203.0.113.9/32"])


async def test_given_what_is_there_already_when_added_then_nothing_is_written_or_audited() -> None:
    world = having(deny={"clients": ["c"]})
    before = world.access.revision
    status, shown = await post(world, list="deny", add={"clients": ["c", "c"]})
    assert (status, shown["deny"]["clients"]) == (200, ["c"])
    assert (world.access.revision, audits(world)) == (before, [])


async def test_given_lists_when_asked_then_they_are_shown() -> None:
    world = having(allow={"networks": ["192.0.2.0/24"]})
    async with world.client() as http:
        answer = await http.get("/v1/access")
    assert (answer.status_code, Access.model_validate(answer.json())) == (200, world.documents.access)


# --- compare and set ---------------------------------------------------------------------------------------------------


async def test_given_somebody_who_was_faster_when_denied_then_both_changes_are_in_the_document() -> None:
    world = having()
    world.access.overtaken.append(Access(deny=Rules(clients=("theirs",))))
    status, shown = await post(world, list="deny", add={"clients": ["ours"]})
    assert (status, shown["deny"]["clients"]) == (200, ["theirs", "ours"])
    assert world.access.stored == Access(deny=Rules(clients=("theirs", "ours")))


async def test_given_others_who_are_always_faster_when_denied_then_409_and_theirs_stays() -> None:
    world = having()
    world.access.overtaken += [Access(deny=Rules(clients=(f"c{number}",))) for number in range(ATTEMPTS)]
    status, problem = await post(world, list="deny", add={"clients": ["ours"]})
    assert (status, kind(problem)) == (409, "changed-meanwhile")
    assert world.access.stored == Access(deny=Rules(clients=(f"c{ATTEMPTS - 1}",)))


async def test_given_somebody_who_took_it_away_meanwhile_when_removed_then_404() -> None:
    world = having(deny={"clients": ["c"]})
    world.access.overtaken.append(Access())
    assert (await post(world, list="deny", remove={"clients": ["c"]}))[0] == 404


async def test_given_somebody_who_emptied_allow_meanwhile_when_added_to_it_then_it_must_be_confirmed() -> None:
    world = having(allow={"clients": ["a"]})
    world.access.overtaken.append(Access())
    status, problem = await post(world, list="allow", add={"clients": ["b"]})
    assert (status, kind(problem), world.access.stored) == (409, "confirm-needed", Access())


# --- what does not fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "list"),
        ({"list": "deny"}, "no entry to add"),
        ({"list": "deny", "add": {}, "remove": {"clients": []}}, "no entry to add"),
        ({"list": "denied", "add": {"clients": ["c"]}}, "denied"),
        ({"list": "deny", "add": {"networks": ["203.0.113.0/24", "198.51.100.7/24"]}}, "add.networks.1 '198.51.100.7/24'"),
        ({"list": "deny", "add": {"networks": ["203.0.113"]}}, "add.networks.0 '203.0.113'"),
        ({"list": "deny", "add": {"networks": ["::ffff:198.51.100.7"]}}, "name IPv4 as IPv4, 198.51.100.7"),
        ({"list": "deny", "remove": {"networks": ["example.com"]}}, "remove.networks.0 'example.com'"),
        ({"list": "deny", "add": {"clients": ["c", "a b"]}}, "add.clients.1 'a b'"),
        ({"list": "deny", "add": {"patterns": ["(a+)+$"]}}, "add.patterns.0 '(a+)+$'"),
        ({"list": "deny", "add": {"patterns": ["a*b*c*d*e*"]}}, "more than 4 stars"),
        ({"list": "deny", "add": {"clients": ["c"]}, "remove": {"clients": ["c"]}}, "c is to be added and removed"),
        ({"list": "uncounted", "add": {"clients": ["c"]}}, "uncounted has networks only"),
        ({"list": "uncounted", "remove": {"patterns": ["c*"]}}, "uncounted has networks only"),
        ({"list": "deny", "add": {"ids": ["c"]}}, "add.ids"),
        ({"list": "deny", "add": {"clients": ["c"]}, "more": 1}, "more"),
        ({"list": "deny", "add": {"clients": ["c"]}, "by": "a\nb"}, "by"),
        ({"list": "deny", "add": {"clients": ["c"]}, "confirm": "yes"}, "confirm"),
        ({"list": "deny", "add": {"networks": [f"10.{n >> 8}.{n & 255}.0/24" for n in range(1025)]}}, "at most 1024"),
    ],
)
async def test_given_what_does_not_fit_when_asked_then_400_that_names_it_and_nothing_is_done(body: Any, named: str) -> None:
    world = having()
    status, problem = await post(world, **body)
    assert (status, kind(problem)) == (400, "bad-input")
    assert named in problem["detail"]
    assert (world.access.stored, audits(world)) == (Access(), [])


@pytest.mark.parametrize(
    ("where", "most", "entry"),
    [
        ("networks", MAX_NETWORKS, lambda index: f"10.{index >> 8}.{index & 255}.0/24"),
        ("clients", MAX_CLIENTS, lambda index: f"c{index}"),
        ("patterns", MAX_PATTERNS, lambda index: f"c{index}*"),
    ],
)
async def test_given_a_full_list_when_added_to_then_400_with_the_first_beyond_it(where: str, most: int, entry: Any) -> None:
    world = having(deny={where: [entry(index) for index in range(most - 1)]})
    before = world.access.stored
    added = [entry(0), entry(most), entry(most + 1), entry(most + 2)]
    status, problem = await post(world, list="deny", add={where: added})
    assert (status, problem["errors"][0]["field"], problem["errors"][0]["value"]) == (400, f"add.{where}", repr(added[2]))
    assert f"deny.{where} may have {most}" in problem["detail"]
    assert world.access.stored == before
    assert (await post(world, list="deny", add={where: added[:2]}))[0] == 200
    status, _ = await post(world, list="deny", add={where: added[2:3]}, remove={where: added[:1]})
    assert status == 200


async def test_given_lists_that_are_too_large_for_the_bucket_when_added_to_then_400() -> None:
    long = [f"{index:0128}" for index in range(1900)]
    world = having(deny={"clients": long})
    status, problem = await post(world, list="allow", add={"clients": [f"a{name[1:]}" for name in long]}, confirm=True)
    assert (status, kind(problem)) == (400, "bad-input")
    assert f"may have {MAX_VALUE} bytes" in problem["detail"]


@pytest.mark.parametrize(
    ("remove", "named"),
    [
        ({"networks": ["203.0.113.0/25"]}, "deny.networks does not have '203.0.113.0/25'"),
        ({"clients": ["c", "d"]}, "deny.clients does not have 'd'"),
        ({"patterns": ["c"]}, "deny.patterns does not have 'c'"),
    ],
)
async def test_given_what_is_not_there_when_removed_then_404_that_names_it_and_nothing_is_done(remove: Any, named: str) -> None:
    world = having(deny={"networks": ["203.0.113.0/24"], "clients": ["c"]})
    before = world.access.stored
    status, problem = await post(world, list="deny", remove=remove)
    assert (status, kind(problem)) == (404, "unknown-entry")
    assert named in problem["detail"]
    assert (world.access.stored, audits(world)) == (before, [])


async def test_given_no_key_when_asked_then_401() -> None:
    async with World().client(key="") as http:
        assert (await http.get("/v1/access")).status_code == 401
        assert (await http.post("/v1/access", json={"list": "deny", "add": {"clients": ["c"]}})).status_code == 401


# --- what must be confirmed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lists", "target", "add", "why"),
    [
        ({}, "allow", {"networks": ["192.0.2.0/24"]}, "allow has no networks now"),
        ({}, "allow", {"clients": ["c"]}, "allow means no clients now"),
        ({}, "allow", {"patterns": ["c*"]}, "allow means no clients now"),
        ({"allow": {"networks": ["192.0.2.0/24"]}}, "allow", {"clients": ["c"]}, "allow means no clients now"),
        ({"allow": {"clients": ["c"]}}, "allow", {"networks": ["192.0.2.0/24"]}, "allow has no networks now"),
        ({}, "deny", {"networks": ["203.0.113.0/24", "0.0.0.0/0"]}, "0.0.0.0/0 is everybody who comes by IPv4"),
        ({}, "deny", {"networks": ["::/0"]}, "::/0 is everybody who comes by IPv6"),
        ({}, "deny", {"networks": ["127.0.0.1"]}, "127.0.0.1/32 covers loopback"),
        ({}, "deny", {"networks": ["64.0.0.0/2"]}, "64.0.0.0/2 covers loopback"),
        ({}, "deny", {"networks": ["::1"]}, "::1/128 covers loopback"),
        ({}, "deny", {"networks": ["::/64"]}, "::/64 covers loopback"),
        ({}, "deny", {"networks": ["128.0.0.0/1"]}, "128.0.0.0/1 is a very large part of IPv4"),
        ({}, "deny", {"networks": ["2000::/3"]}, "2000::/3 is a very large part of IPv6"),
        ({}, "deny", {"patterns": ["*"]}, "* means clients whatever their ids are"),
        ({}, "deny", {"patterns": ["?*"]}, "?* means clients whatever their ids are"),
    ],
)
async def test_given_a_change_that_shuts_out_more_than_it_names_when_asked_then_409_until_it_is_confirmed(
    lists: Any, target: str, add: Any, why: str
) -> None:
    world = having(**lists)
    before = world.access.stored
    status, problem = await post(world, list=target, add=add)
    assert (status, kind(problem)) == (409, "confirm-needed")
    assert why in problem["detail"]
    assert '"confirm": true' in problem["detail"]
    assert (world.access.stored, audits(world)) == (before, [])
    status, _ = await post(world, list=target, add=add, confirm=True)
    assert (status, len(audits(world))) == (200, 1)
    assert (await post(world, list=target, add=add))[0] == 200  # it is there already
    assert (await post(world, list=target, remove=add))[0] == 200


@pytest.mark.parametrize(
    ("lists", "target", "add"),
    [
        ({"allow": {"networks": ["192.0.2.0/24"]}}, "allow", {"networks": ["198.51.100.0/24"]}),
        ({"allow": {"clients": ["c"]}}, "allow", {"patterns": ["d*"]}),
        ({}, "deny", {"networks": ["203.0.0.0/8", "2001:db8::/32"], "patterns": ["a*", "*a", "?a?"]}),
        ({}, "uncounted", {"networks": ["0.0.0.0/0"]}),
        ({"deny": {"networks": ["0.0.0.0/0"]}}, "deny", {"networks": ["203.0.113.0/24"]}),
    ],
)
async def test_given_a_change_that_shuts_out_whom_it_names_when_asked_then_it_is_done(lists: Any, target: str, add: Any) -> None:
    assert (await post(having(**lists), list=target, add=add))[0] == 200


# --- what is not there, or not readable --------------------------------------------------------------------------------


async def test_given_a_document_that_does_not_parse_when_changed_then_409_and_then_the_last_good_one_replaces_it() -> None:
    world = having(deny={"clients": ["c"]})
    world.access.readable = False
    status, problem = await post(world, list="deny", add={"clients": ["d"]})
    assert (status, kind(problem), world.access.readable) == (409, "confirm-needed", False)
    status, shown = await post(world, list="deny", add={"clients": ["c"]}, confirm=True)
    assert (status, shown["deny"]["clients"], world.access.readable) == (200, ["c"], True)


@pytest.mark.parametrize(("revision", "clients"), [(0, ["known", "new"]), (7, ["new"])])
async def test_given_no_document_when_changed_then_one_that_never_was_there_is_the_known_one_and_a_removed_one_is_empty(
    revision: int, clients: list[str]
) -> None:
    world = World()
    world.documents.access, world.access.revision = Access(deny=Rules(clients=("known",))), revision
    status, shown = await post(world, list="deny", add={"clients": ["new"]})
    assert (status, shown["deny"]["clients"]) == (200, clients)


async def test_given_brokers_that_are_away_when_changed_then_503_and_nothing_is_done() -> None:
    world = having()
    world.journal.down = True
    status, problem = await post(world, list="deny", add={"clients": ["c"]})
    assert (status, kind(problem), world.access.stored) == (503, "journal-down", Access())
    world.journal.down, world.access.down = False, True
    status, problem = await post(world, list="deny", add={"clients": ["c"]})
    assert (status, kind(problem), audits(world)) == (503, "bus-down", [])


def test_given_a_change_of_one_list_then_the_others_stay_as_they_are() -> None:
    lists = {name: {"clients": ["c"]} for name in ("allow", "deny")}
    before = Access.model_validate({**lists, "uncounted": ["203.0.113.0/24"]})
    after = changed(before, AccessChange(target="allow", add=Rules(clients=("d",)), by="ann"))
    assert after == before.model_copy(update={"allow": Rules(clients=("c", "d"))})
