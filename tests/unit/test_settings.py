"""Settings: the shipped example loads, variables win over the file, what is not known or out of bounds is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import BadSettings, load

EXAMPLE = Path(__file__).parents[2] / "infra" / "deploy" / "longwire.example.toml"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGWIRE_CONFIG", raising=False)


def test_the_shipped_example_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_CONFIG", str(EXAMPLE))
    settings = load()
    assert settings.room.drain == 60
    assert settings.kafka.partitions == 48
    assert settings.room.labels == {"idc": "fra1"}


def test_a_variable_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_CONFIG", str(EXAMPLE))
    monkeypatch.setenv("LONGWIRE_KAFKA__PARTITIONS", "7")
    settings = load()
    assert settings.kafka.partitions == 7
    assert settings.kafka.replication == 3


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[kafka]\npartition = 3", "kafka.partition"),
        ("[unknown]\na = 1", "unknown"),
        ("[kafka]\npartitions = 0", "kafka.partitions"),
        ("[room]\ndrain = '10 parsecs'", "room.drain"),
        ("[telemetry]\nlevel = 'loud'", "telemetry.level"),
        ("not toml", "line 1"),
    ],
)
def test_what_is_not_known_or_out_of_bounds_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, where: str
) -> None:
    file = tmp_path / "longwire.toml"
    file.write_text(text)
    monkeypatch.setenv("LONGWIRE_CONFIG", str(file))
    with pytest.raises(BadSettings, match=where):
        load()


def test_a_config_file_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(BadSettings, match=r"none\.toml"):
        load()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_CENTER__API_KEY", "lw_very_secret")
    assert "very_secret" not in repr(load())
