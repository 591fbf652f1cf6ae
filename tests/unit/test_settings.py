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
    assert settings.room.labels == {"idc": "fra1", "region": "eu"}


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
        ("[room]\ntransport = 'mqtts'", r"room's own port: mqtts needs tls\.certificates"),
        ("[room]\ntransport = 'tls'", r"room\.transport"),
        ("[room]\nadvertise = 'https://push.test'", r"room\.advertise"),
        ("[room]\nproxy = true", r"room's own port: proxy needs balancers"),
        ("[room]\nbalancers = ['10.0.0.0/33']", r"room\.balancers\.0"),
        ("[[room.listeners]]\nshared = true", r"listeners\.0: a shared port needs a number"),
        ("[[room.listeners]]\nclient_certificates = true", r"listeners\.0: client_certificates needs mqtts or wss"),
        ("[room.websocket]\npath = 'mqtt'", r"room\.websocket\.path"),
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


def test_listeners_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_ROOM__TLS__CERTIFICATES", '[{"certificate": "/a.crt", "key": "/a.key"}]')
    monkeypatch.setenv("LONGWIRE_ROOM__LISTENERS", '[{"port": 8883, "transport": "mqtts", "proxy": true}]')
    monkeypatch.setenv("LONGWIRE_ROOM__BALANCERS", '["10.0.0.0/8", "2001:db8::/32"]')
    room = load().room
    assert [(item.port, item.transport, item.proxy, item.host) for item in room.listeners] == [(8883, "mqtts", True, None)]
    assert len(room.balancers) == 2


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_CENTER__API_KEY", "lw_very_secret")
    assert "very_secret" not in repr(load())


def test_given_labels_that_the_dispatcher_could_not_understand_then_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_ROOM__LABELS", '{"pool": "a,b", "idc": "FRA 1", "networks": "4g,5g", "rack": "What You Like"}')
    with pytest.raises(BadSettings) as raised:
        load()
    assert "label pool 'a,b'" in str(raised.value)
    assert "label idc 'FRA 1'" in str(raised.value)
    assert "networks" not in str(raised.value)
    monkeypatch.setenv("LONGWIRE_ROOM__LABELS", '{"pool": "a", "networks": "4g,5g", "rack": "What You Like"}')
    assert load().room.labels["networks"] == "4g,5g"


def test_given_a_region_table_then_a_bad_network_or_region_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGWIRE_CENTER__REGIONS", '{"203.0.113.0/24": "eu", "2001:db8::/32": "us"}')
    assert set(load().center.regions.values()) == {"eu", "us"}
    for bad in ('{"203.0.113.1/24": "eu"}', '{"203.0.113.0/24": "Eu rope"}'):
        monkeypatch.setenv("LONGWIRE_CENTER__REGIONS", bad)
        with pytest.raises(BadSettings, match="regions"):
            load()
