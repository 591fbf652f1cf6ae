"""What the dispatcher knows: rooms by pool and network, complaints, regions, and who asks."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from center_world import RoomsTwin, room
from mmdb_writer import mmdb
from prometheus_client import REGISTRY

from infra.documents import Access, Policy
from infra.peers import UNKNOWN, customer, number
from infra.rooms import RoomView
from workers.center.dispatch.askers import KNOWN, REMEMBERED, Askers
from workers.center.dispatch.board import BUSY, FRESH, Board
from workers.center.dispatch.choice import Place, Table, Wish
from workers.center.dispatch.failures import ENOUGH, FLOOR, MAX_TRACKED, WINDOW, Failures
from workers.center.dispatch.query import LONGEST, Ask, read
from workers.center.dispatch.regions import Regions

# --- rooms -------------------------------------------------------------------------------------------------------------


def view(name: str, labels: dict[str, str], **lease: Any) -> RoomView:
    found = room(name, port=1000 + int(name[1:]))
    found.entry = msgspec.structs.replace(found.entry, labels=labels)
    found.lease = msgspec.structs.replace(found.lease, **lease)
    return found


def board(*views: RoomView, failures: Failures | None = None) -> Board:
    return Board(RoomsTwin(list(views)), Failures() if failures is None else failures)


def rooms_of(table: Table) -> set[str]:
    return {place.room for number in range(64) for place in table.choose(Wish(f"c{number}"))[:1]} if table else set()


def places_of(table: Table) -> dict[str, Place]:
    return {place.room: place for place in table.choose(Wish("c"))}


def test_given_pools_then_each_has_its_rooms_and_no_pool_those_without() -> None:
    found = board(view("r1", {"pool": "shop"}), view("r2", {}), view("r3", {"pool": "game"}))
    assert rooms_of(found.table("shop", "", "", 0)) == {"r1"}
    assert rooms_of(found.table("", "", "", 0)) == {"r2"}
    assert not found.table("chat", "", "", 0)


def test_given_rooms_for_some_networks_then_others_do_not_get_them() -> None:
    found = board(view("r1", {"networks": "4g,5g"}), view("r2", {}))
    assert rooms_of(found.table("", "", "4g", 0)) == {"r1", "r2"}
    assert rooms_of(found.table("", "", "wifi", 0)) == {"r2"}
    assert rooms_of(found.table("", "", "", 0)) == {"r2"}


@pytest.mark.parametrize(
    "lease",
    [{"state": "draining"}, {"admits": False}, {"connections": 96, "capacity": 100}, {"connections": 100, "capacity": 100}],
)
def test_given_a_room_that_drains_is_full_or_admits_nobody_then_it_is_left_out(lease: dict[str, Any]) -> None:
    found = board(view("r1", {}, **lease), view("r2", {}, connections=94, capacity=100))
    assert rooms_of(found.table("", "", "", 0)) == {"r2"}
    assert not board(view("r1", {}, **lease)).table("", "", "", 0)


def test_given_capacities_then_they_are_the_weights_and_an_older_room_counts_as_the_others_do() -> None:
    found = board(view("r1", {}, capacity=1000), view("r2", {}, capacity=3000), view("r3", {}))
    assert {name: place.weight for name, place in places_of(found.table("", "", "", 0)).items()} == {
        "r1": 1000,
        "r2": 3000,
        "r3": 2000,
    }


def test_given_a_room_much_fuller_than_the_others_then_it_is_busy() -> None:
    full = [view(f"r{index}", {}, connections=40, capacity=100) for index in range(4)]
    found = board(view("r9", {}, connections=int(40 * BUSY) + 20, capacity=100), *full)
    assert "r9" not in rooms_of(found.table("", "", "", 0))
    assert not any(place.busy for place in places_of(board(*full).table("", "", "", 0)).values())


def test_given_a_change_then_it_is_seen_within_a_moment() -> None:
    rooms = RoomsTwin([view("r1", {})])
    found = Board(rooms, Failures())
    assert rooms_of(found.table("", "", "", 10)) == {"r1"}
    rooms.views = [view("r2", {})]
    assert rooms_of(found.table("", "", "", 10 + FRESH / 2)) == {"r1"}
    assert rooms_of(found.table("", "", "", 10 + FRESH)) == {"r2"}


def test_given_complaints_on_one_network_then_the_room_has_less_weight_there_only() -> None:
    failures = Failures()
    found = board(*(view(f"r{index}", {}, capacity=100) for index in range(3)), failures=failures)
    for index in range(40):
        failures.report("4g", "10.0.0.1:1001", index, 0)
    assert {name: place.weight for name, place in places_of(found.table("", "", "4g", 0)).items()} == {
        "r0": 100,
        "r1": 100 * FLOOR,
        "r2": 100,
    }
    assert {place.weight for place in places_of(found.table("", "", "wifi", 0)).values()} == {100}


# --- complaints --------------------------------------------------------------------------------------------------------

ADDRESSES = ["a:1", "b:1", "c:1"]


def test_given_one_liar_then_nothing_changes_however_often_he_says_it() -> None:
    failures = Failures()
    for index in range(1000):
        failures.report("wifi", "a:1", 7, index / 100)
    assert failures.factors("wifi", ADDRESSES, 10) == [1, 1, 1]


def test_given_many_then_the_weight_falls_to_its_floor_and_comes_back() -> None:
    failures = Failures()
    for index in range(500):
        failures.report("wifi", "a:1", index, 0)
    assert failures.factors("wifi", ADDRESSES, 1) == [FLOOR, 1, 1]
    later = [failures.factors("wifi", ADDRESSES, WINDOW * part)[0] for part in (1.0, 1.9, 2.0)]
    assert later == sorted(later)
    assert later[-1] == 1


def test_given_that_all_addresses_fail_alike_then_none_is_worse() -> None:
    failures = Failures()
    for address in ADDRESSES:
        for index in range(100):
            failures.report("2g", address, index, 0)
    assert failures.factors("2g", ADDRESSES, 1) == [1, 1, 1]


def test_given_few_complaints_then_they_do_not_count() -> None:
    failures = Failures()
    for index in range(ENOUGH):
        failures.report("wifi", "a:1", index, 0)
    assert failures.factors("wifi", ["a:1", "b:1"], 1)[0] == 1


def test_given_very_many_addresses_then_memory_is_bounded_and_old_ones_make_place() -> None:
    failures = Failures()
    for index in range(2 * MAX_TRACKED):
        failures.report("wifi", f"h:{index}", 1, 0)
    assert len(failures) == MAX_TRACKED
    failures.report("wifi", "new:1", 1, 3 * WINDOW)
    assert len(failures) == 1


# --- regions -----------------------------------------------------------------------------------------------------------

GEO = {
    "203.0.113.0/24": {"country": {"iso_code": "DE"}, "continent": {"code": "EU"}},
    "198.51.100.0/24": {"country": {"iso_code": "US"}, "continent": {"code": "NA"}},
    "2001:db8::/32": {"continent": {"code": "EU"}},
    "192.0.2.0/24": {"country": "strange"},
}


def test_given_a_table_then_it_decides_and_else_the_file() -> None:
    regions = Regions({"10.0.0.0/8": "a", "10.1.0.0/16": "b"})
    assert [regions.of(number(text)) for text in ("10.9.9.9", "10.1.2.3", "11.1.1.1", "::1")] == ["a", "b", "", ""]
    assert regions.of(UNKNOWN) == ""


def test_given_a_maxmind_file_then_country_and_continent_are_regions(tmp_path: Path) -> None:
    file = tmp_path / "country.mmdb"
    file.write_bytes(mmdb(GEO))
    regions = Regions({"203.0.113.7/32": "desk"}, file, {"eu": "europe"})
    expected = {
        "203.0.113.7": "desk",
        "203.0.113.8": "europe",
        "198.51.100.1": "us",
        "2001:db8::1": "europe",
        "192.0.2.1": "",
        "8.8.8.8": "",
    }
    assert {text: regions.of(number(text)) for text in expected} == expected


def test_given_a_file_of_ipv4_then_ipv6_has_no_region(tmp_path: Path) -> None:
    file = tmp_path / "country.mmdb"
    file.write_bytes(mmdb({"203.0.113.0/24": GEO["203.0.113.0/24"]}, ip_version=4))
    regions = Regions({}, file)
    assert (regions.of(number("203.0.113.1")), regions.of(number("2001:db8::1"))) == ("de", "")


def test_given_another_file_then_it_is_read_and_a_bad_one_is_counted_and_passed_over(tmp_path: Path) -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("longwire_center_geo_refused_total") or 0.0

    file, before = tmp_path / "country.mmdb", counted()
    regions = Regions({}, file)
    assert (regions.of(number("203.0.113.1")), counted()) == ("", before + 1)
    for country, data in (("DE", None), ("FR", None), ("FR", b"no database")):
        content = data or mmdb({"203.0.113.0/24": {"country": {"iso_code": country}}})
        (tmp_path / "new").write_bytes(content)
        os.replace(tmp_path / "new", file)
        regions.refresh()
        assert regions.of(number("203.0.113.1")) == country.lower()
    assert counted() == before + 2


# --- who asks ----------------------------------------------------------------------------------------------------------


def scope(peer: str, *forwarded: str) -> dict[str, Any]:
    return {"client": (peer, 5000), "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded]}


def askers(*balancers: str, policy: Policy | None = None) -> Askers:
    named = {"203.0.113.0/24": "device", "10.0.0.0/8": "balancer", "2001:db8::/32": "six"}
    documents = policy or Policy(), Access()
    return Askers(lambda: documents[0], lambda: documents[1], balancers=balancers, regions=Regions(named))


@pytest.mark.parametrize(
    ("peer", "forwarded", "region"),
    [
        ("10.0.0.1", ["203.0.113.9"], "device"),
        ("10.0.0.1", ["6.6.6.6, 203.0.113.9"], "device"),
        ("10.0.0.1", ["6.6.6.6", "203.0.113.9, 10.0.0.2"], "device"),
        ("10.0.0.1", ["203.0.113.9:4711"], "device"),
        ("10.0.0.1", ["[2001:db8::5]:4711"], "six"),
        ("10.0.0.1", ["2001:db8::5"], "six"),
        ("10.0.0.1", [], "balancer"),
        ("10.0.0.1", [""], "balancer"),
        ("10.0.0.1", ["203.0.113.9, nonsense"], "balancer"),
        ("10.0.0.1", ["203.0.113.9" + ", 10.0.0.2" * 100], "balancer"),
        ("10.0.0.1", ["10.0.0.3"], "balancer"),
        ("9.9.9.9", ["203.0.113.9"], ""),
        ("", ["203.0.113.9"], ""),
    ],
)
def test_given_forwarded_addresses_then_only_a_listed_proxy_is_believed(peer: str, forwarded: list[str], region: str) -> None:
    assert askers("10.0.0.0/24").of(scope(peer, *forwarded), 0).region == region


def test_given_no_listed_proxy_then_the_header_says_nothing() -> None:
    assert askers().of(scope("10.0.0.1", "203.0.113.9"), 0).region == "balancer"


def test_given_an_address_then_it_may_ask_so_often_and_others_are_not_concerned() -> None:
    found = askers(policy=Policy(dispatch_per_address=2, accept_burst=3))
    one, other = (found.of(scope(host), 0) for host in ("203.0.113.1", "203.0.113.2"))
    assert [found.may_ask(one, 0) for _ in range(7)] == [True] * 6 + [False]
    assert found.may_ask(other, 0)
    assert [found.may_ask(one, 1) for _ in range(3)] == [True, True, False]


def test_given_a_private_or_an_unknown_address_then_it_has_no_limit_of_its_own() -> None:
    found = askers(policy=Policy(dispatch_per_address=1, accept_burst=1))
    for host in ("127.0.0.1", "10.0.0.1", ""):
        assert all(found.may_ask(found.of(scope(host), 0), 0) for _ in range(50))


def test_given_addresses_of_one_64_then_they_are_one_customer() -> None:
    found = askers()
    assert found.of(scope("2001:db8::1"), 0).customer == found.of(scope("2001:db8::2"), 0).customer
    assert found.of(scope("203.0.113.1"), 0).customer == customer(number("203.0.113.1"))


def test_given_very_many_addresses_then_what_is_remembered_is_bounded() -> None:
    found = askers()
    for index in range(KNOWN + 10):
        found.of(scope(str(ipaddress.IPv4Address(0x0B000000 + index))), 0)
    assert len(found._known) <= KNOWN


def test_given_another_access_document_then_uncounted_addresses_are_others_at_once() -> None:
    documents = [Access()]
    found = Askers(Policy, lambda: documents[-1], regions=Regions({}))
    assert found.of(scope("203.0.113.1"), 0).counted
    documents.append(Access(uncounted=("203.0.113.0/24",)))
    assert not found.of(scope("203.0.113.1"), 0).counted
    assert found.of(scope("10.0.0.1"), REMEMBERED).counted


# --- the query ---------------------------------------------------------------------------------------------------------


def test_given_a_whole_question_then_all_of_it_is_read() -> None:
    query = (
        b"client=c%2B1%40x&network=4g&region=eu&product=shop&transport=mqtts&attempt=2&last=r-1"
        b"&failed=h%3A1&failed=%5B%3A%3A1%5D%3A2&unknown=1&unknown=2"
    )
    assert read(query) == Ask("c+1@x", "4g", "eu", "shop", "mqtts", 2, "r-1", ("h:1", "[::1]:2"))
    assert read(b"client=c") == Ask("c")


@pytest.mark.parametrize(
    "query",
    [
        b"",
        b"client=",
        b"client=a/b",
        b"client=%00",
        b"client=a%0d%0ab",
        b"client=\xff",
        b"client=c&client=c",
        b"client=c&%63lient=d",
        b"client=c&attempt=-1",
        b"client=c&attempt=1.0",
        b"client=c&attempt=%D9%A1",
        b"client=c&attempt=1000000",
        b"client=c&attempt=",
        b"client=c&transport=",
        b"client=c&transport=smoke",
        b"client=c&region=EU",
        b"client=c&region=eu%0a",
        b"client=c&product=Shop",
        b"client=c&last=a.b",
        b"client=c&network=" + b"x" * 33,
        b"client=c&failed=" + b"x" * 301,
        b"client=c" + b"&failed=a" * 17,
        b"client=c&x=" + b"x" * LONGEST,
    ],
)
def test_given_anything_unusual_then_it_is_left_to_the_route(query: bytes) -> None:
    assert read(query) is None
