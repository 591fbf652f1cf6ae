"""Kafka's jars: the lock, the cache, and a fetch that is whole or not there."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.local import jars
from infra.local.errors import LocalBrokerError
from infra.local.jars import Jar

CONTENT = b"a jar"
ONE = Jar("org.example:one:1.0", hashlib.sha256(CONTENT).hexdigest())
TWO = Jar("org.example:two:2.0", ONE.sha256)


def downloads(content: bytes, counted: list[str]) -> Callable[[Path, str], Path]:
    """A stand-in for the repository: the "context" is the folder that it downloads to."""

    def download(repository: Path, coordinates: str) -> Path:
        counted.append(coordinates)
        file = repository / coordinates.replace(":", "-")
        file.write_bytes(content)
        return file

    return download


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The coordinates that were downloaded; each download gives `CONTENT`."""
    counted: list[str] = []
    monkeypatch.setattr(jars, "_maven", lambda repository: repository)
    monkeypatch.setattr(jars, "_download", downloads(CONTENT, counted))
    return counted


def test_given_the_lock_then_it_holds_kafka_its_log_binding_and_one_version_of_each_jar() -> None:
    locked = jars.read_lock()
    names = [jar.coordinates for jar in locked]
    assert set(jars.COORDINATES) <= set(names)
    assert f"org.apache.kafka:kafka-clients:{jars.KAFKA_VERSION}" in names
    assert len({name.rpartition(":")[0] for name in names}) == len(names)
    assert len({jar.file_name for jar in locked}) == len(names)
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in locked)


def test_given_an_xdg_cache_then_the_jars_are_there_and_a_relative_one_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    version = f"longwire/kafka-{jars.KAFKA_VERSION}"
    assert jars.cache_folder({"XDG_CACHE_HOME": "/cache"}) == Path("/cache") / version
    assert jars.cache_folder({"XDG_CACHE_HOME": "cache"}) == Path("/home/me/.cache") / version
    assert jars.cache_folder({}) == Path("/home/me/.cache") / version


def test_given_an_empty_cache_when_fetched_then_the_folder_is_complete_and_a_second_fetch_downloads_nothing(
    tmp_path: Path, fetched: list[str]
) -> None:
    folder = tmp_path / "kafka-1"
    assert not jars.is_complete(folder, (ONE, TWO))
    jars.fetch(folder, (ONE, TWO))
    assert jars.is_complete(folder, (ONE, TWO))
    assert sorted(file.name for file in folder.iterdir()) == ["complete", "one-1.0.jar", "two-2.0.jar"]
    jars.fetch(folder, (ONE, TWO))
    assert sorted(fetched) == [ONE.coordinates, TWO.coordinates]


def test_given_a_jar_that_was_removed_when_fetched_then_it_is_back(tmp_path: Path, fetched: list[str]) -> None:
    folder = tmp_path / "kafka-1"
    jars.fetch(folder, (ONE, TWO))
    (folder / TWO.file_name).unlink()
    assert not jars.is_complete(folder, (ONE, TWO))
    jars.fetch(folder, (ONE, TWO))
    assert jars.is_complete(folder, (ONE, TWO))
    assert len(fetched) == 4


@pytest.mark.usefixtures("fetched")
def test_given_a_jar_with_another_checksum_when_fetched_then_nothing_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "kafka-1"
    with pytest.raises(LocalBrokerError, match=r"one-1\.0\.jar: the checksum is .* Nothing was kept"):
        jars.fetch(folder, (Jar(ONE.coordinates, "00" * 32), TWO))
    assert not folder.exists()


@pytest.mark.usefixtures("fetched")
def test_given_what_an_interrupted_fetch_left_when_fetched_again_then_it_is_cleared_away(tmp_path: Path) -> None:
    left = tmp_path / "kafka-1.part" / "repository"
    left.mkdir(parents=True)
    (left / "half.jar").write_bytes(b"ha")
    jars.fetch(tmp_path / "kafka-1", (ONE,))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kafka-1", "kafka-1.lock"]


async def test_given_a_repository_out_of_reach_when_jars_are_ensured_then_the_error_says_what_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "")
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nobody listens on port 1
    with pytest.raises(LocalBrokerError, match=r"(?s)kafka: its jars could not be fetched: exited with code 1.*Proxy"):
        await jars.ensure(told.append)
    assert told == [f"kafka: fetching version {jars.KAFKA_VERSION} (45 MB, once)…"]
    assert not jars.cache_folder({"XDG_CACHE_HOME": str(tmp_path)}).exists()
