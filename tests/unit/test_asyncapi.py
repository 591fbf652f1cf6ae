"""The AsyncAPI document: sound by the specification's rules, and true to the topics, records and MQTT topics of the code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import fastavro
import pytest
from click.testing import CliRunner

from cli import cli
from infra.asyncapi import GROUP, PULL, PUSH, UPLINK, document
from infra.journal import topic_specs
from schemas import names
from schemas.checks import RESERVED_PROPERTIES
from schemas.records import RECORDS
from schemas.topics import OWN_QUEUE, TOPICS, records_of
from tests.unit.center_world import World

DOCUMENT: Final = document("1.2.3")
FILLED: Final = {"product": "demo", "group": "news", "type": "order"}

# AsyncAPI 3.0.0: the fields of each object that is used here, and those that must be there (its "Fixed Fields" tables).
FIELDS: Final[dict[str, tuple[set[str], set[str]]]] = {
    "": (
        {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"},
        {"asyncapi", "info"},
    ),
    "info": (
        {"title", "version", "description", "termsOfService", "contact", "license", "tags", "externalDocs"},
        {"title", "version"},
    ),
    "servers/*": (
        {
            "host",
            "protocol",
            "protocolVersion",
            "pathname",
            "description",
            "title",
            "summary",
            "variables",
            "security",
            "tags",
            "bindings",
        },
        {"host", "protocol"},
    ),
    "channels/*": (
        {"address", "messages", "title", "summary", "description", "servers", "parameters", "tags", "externalDocs", "bindings"},
        {"address"},
    ),
    "channels/*/parameters/*": ({"enum", "default", "description", "examples", "location"}, set()),
    "operations/*": (
        {"action", "channel", "title", "summary", "description", "security", "tags", "bindings", "traits", "messages", "reply"},
        {"action", "channel"},
    ),
    "operations/*/reply": ({"address", "channel", "messages"}, set()),
    "components": ({"schemas", "servers", "channels", "operations", "messages", "securitySchemes", "parameters"}, set()),
    "components/messages/*": (
        {
            "headers",
            "payload",
            "correlationId",
            "contentType",
            "name",
            "title",
            "summary",
            "description",
            "tags",
            "bindings",
            "examples",
        },
        {"payload"},
    ),
}


def at(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects at a path of the document, `*` being any name."""
    found: list[tuple[str, Any]] = [("", DOCUMENT)]
    for step in path.split("/") if path else ():
        found = [
            (f"{where}/{name}", inner)
            for where, each in found
            for name, inner in each.items()
            if step in ("*", name) and isinstance(inner, dict)
        ]
    yield from found


def refs(value: Any) -> Iterator[str]:
    """Every reference in a document; a default in a schema is none."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for each in value.values():
            yield from refs(each)
    elif isinstance(value, list):
        for each in value:
            yield from refs(each)


def kafka() -> dict[str, dict[str, Any]]:
    channels: dict[str, dict[str, Any]] = DOCUMENT["channels"]
    return {each["address"]: each for each in channels.values() if each["servers"] == [{"$ref": "#/servers/kafka"}]}


@pytest.mark.parametrize("path", FIELDS)
def test_every_object_has_the_fields_of_the_specification_and_no_other(path: str) -> None:
    allowed, needed = FIELDS[path]
    found = list(at(path))
    assert found
    for where, each in found:
        assert needed <= each.keys() <= allowed, where


def test_every_reference_is_to_something_in_the_document() -> None:
    found = set(refs(DOCUMENT))
    assert found
    for ref in found:
        target: Any = DOCUMENT
        for step in ref.removeprefix("#/").split("/"):
            target = target[step]


def test_every_operation_is_one_of_a_channel_and_every_channel_has_one() -> None:
    operations = DOCUMENT["operations"].values()
    assert {each["action"] for each in operations} == {"send", "receive"}
    assert {each["channel"]["$ref"] for each in operations} == {f"#/channels/{name}" for name in DOCUMENT["channels"]}


def test_a_parameter_is_described_for_each_part_of_an_address_that_is_not_fixed() -> None:
    for name, channel in DOCUMENT["channels"].items():
        parts = {part[1:-1] for part in channel["address"].replace(".", "/").split("/") if part.startswith("{")}
        assert parts == channel.get("parameters", {}).keys(), name


def test_the_kafka_channels_are_the_topics_of_the_names_and_none_else() -> None:
    named = {value for value in vars(names).values() if isinstance(value, str) and value.startswith("push.")}
    assert (
        kafka().keys() - {OWN_QUEUE.name} == named == {topic.name for topic in TOPICS} == {spec.name for spec in topic_specs(6)}
    )


def test_each_record_is_in_a_topic_and_in_the_document_with_its_newest_schema() -> None:
    assert {record for topic in TOPICS for record in topic.records} == set(RECORDS)
    messages = {name: each for name, each in DOCUMENT["components"]["messages"].items() if "schemaFormat" in each["payload"]}
    assert messages.keys() == {record.__name__ for record in RECORDS}
    for record in RECORDS:
        assert messages[record.__name__]["name"] == record.SCHEMA
        fields = messages[record.__name__]["payload"]["schema"]["fields"]
        assert [field["name"] for field in fields] == list(record.__struct_fields__)
        fastavro.parse_schema(json.loads(json.dumps(messages[record.__name__]["payload"]["schema"])))


def test_a_channel_has_the_records_of_its_topic_and_how_long_they_are_kept() -> None:
    for spec in topic_specs(6):
        channel = kafka()[spec.name]
        assert channel["messages"].keys() == {record.__name__ for record in records_of(spec.name)}
        config = channel["bindings"]["kafka"]["topicConfiguration"]
        assert str(config.get("retention.ms", "")) == spec.config.get("retention.ms", "")
        assert config["cleanup.policy"] == spec.config.get("cleanup.policy", "delete").split(",")
    assert records_of(names.queue_topic("shop")) == records_of(names.MESSAGES)


def test_the_mqtt_addresses_are_those_that_a_room_reads_and_writes() -> None:
    assert names.parse_push_topic(PUSH.format_map(FILLED)) == ("demo", "")
    assert names.parse_push_topic(GROUP.format_map(FILLED)) == ("demo", "news")
    assert names.parse_uplink_topic(UPLINK.format_map(FILLED)) == ("demo", "order")
    assert names.parse_pull_topic(PULL.format_map(FILLED)) == "demo"
    devices = {each["address"] for each in DOCUMENT["channels"].values()} - kafka().keys()
    assert devices == {PUSH, GROUP, UPLINK, PULL}


def test_the_user_properties_are_reserved_ones() -> None:
    packets = [each for each in DOCUMENT["components"]["messages"].values() if "headers" in each]
    assert {name for each in packets for name in each["headers"]["properties"]} <= RESERVED_PROPERTIES
    assert {name for each in packets for name in each["headers"]["properties"]} >= {"id", "pull", "size", "pull-after"}


def test_pushctl_prints_it() -> None:
    shown = CliRunner().invoke(cli, ["asyncapi"])
    assert shown.exit_code == 0
    assert json.loads(shown.output)["channels"].keys() == DOCUMENT["channels"].keys()


async def test_center_serves_it_without_a_key() -> None:
    async with World().client(key="") as http:
        assert (await http.get("/asyncapi.json")).json() == document("0.0.0")
