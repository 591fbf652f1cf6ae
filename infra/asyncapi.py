"""The AsyncAPI 3.0 document: the Kafka topics with their records, and the MQTT profile, as machines read them.

Everything in it comes from what the code runs by: topics and keys (schemas/topics.py), retention (infra/journal.py), the `.avsc`
files, the forms of names and the bounds. `pushctl asyncapi` prints it, center serves it.
"""

from __future__ import annotations

from typing import Any, Final

from infra.documents import Policy
from infra.journal import DAY_MS, TopicSpec, queue_spec, topic_specs
from infra.settings import KafkaSettings
from schemas import codec, names
from schemas.checks import MAX_TTL_S
from schemas.codes import MAX_PAYLOAD, MAX_PROPERTIES, MAX_PROPERTIES_BYTES
from schemas.records import RECORDS, Record
from schemas.topics import OWN_QUEUE, TOPICS, Topic

VERSION: Final = "3.0.0"
AVRO: Final = "application/vnd.apache.avro+json;version=1.9.0"
"""AsyncAPI 3.0, "Multi Format Schema Object": the version names the format of a schema, which is the same in Avro 1.12."""
MQTT_BINDING: Final = "0.2.0"
KAFKA_BINDING: Final = "0.5.0"

Json = dict[str, Any]


def document(version: str) -> Json:
    """The document of this version of Longwire."""
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "Longwire",
            "version": version,
            "description": "What a product's servers read and write in Kafka, and what its devices say in MQTT 5.",
        },
        "defaultContentType": "application/octet-stream",
        "servers": _servers(),
        "channels": {**_topic_channels(), **_device_channels()},
        "operations": {**_topic_operations(), **_device_operations()},
        "components": {"messages": {**_records(), **_packets()}, "securitySchemes": _SECURITY},
    }


# --- servers -----------------------------------------------------------------------------------------------------------

_SECURITY: Final[Json] = {
    "token": {
        "type": "userPassword",
        "description": "CONNECT's password is a JWT with sub = client id, and products; or Authentication Data of method jwt.",
    }
}


def _servers() -> Json:
    policy = Policy()
    connect = {
        "bindingVersion": MQTT_BINDING,
        "keepAlive": policy.keep_alive_default,
        "sessionExpiryInterval": int(policy.flash_window_s),
    }
    return {
        "kafka": {"host": "kafka.example.com:9092", "protocol": "kafka", "description": "The brokers of `kafka.bootstrap`."},
        "room": {
            "host": "room.example.com:1883",
            "protocol": "mqtt",
            "protocolVersion": "5.0",
            "description": "A room: where the dispatcher (`GET /v1/dispatch`) sends a device. TLS and WebSocket as it answers.",
            "security": [{"$ref": "#/components/securitySchemes/token"}],
            "bindings": {"mqtt": connect},
        },
    }


# --- Kafka -------------------------------------------------------------------------------------------------------------


def _topic_channels() -> Json:
    partitions = KafkaSettings().partitions
    specs = {spec.name: spec for spec in topic_specs(partitions)}
    shown = {topic.name: _topic_channel(topic, specs[topic.name]) for topic in TOPICS}
    own = _topic_channel(OWN_QUEUE, queue_spec("product", partitions))
    own["parameters"] = {"product": {"description": "A product with a queue of its own."}}
    return {**shown, _channel_id(OWN_QUEUE): own}


def _channel_id(topic: Topic) -> str:
    return topic.name.replace("{", "").replace("}", "")


def _topic_channel(topic: Topic, spec: TopicSpec) -> Json:
    return {
        "address": topic.name,
        "description": f"Key: {topic.key}. {_kept(spec)}",
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {record.__name__: _message(record.__name__) for record in topic.records},
        "bindings": {"kafka": _topic_binding(spec)},
    }


def _topic_binding(spec: TopicSpec) -> Json:
    config: Json = {"cleanup.policy": spec.config.get("cleanup.policy", "delete").split(",")}
    if "retention.ms" in spec.config:
        config["retention.ms"] = int(spec.config["retention.ms"])
    return {"partitions": spec.partitions, "topicConfiguration": config, "bindingVersion": KAFKA_BINDING}


def _kept(spec: TopicSpec) -> str:
    if spec.config.get("cleanup.policy") == "compact":
        return "Compacted: the newest record of a key is kept."
    kept = f"Kept for {int(spec.config['retention.ms']) // DAY_MS} days, by the broker's time of the append."
    return f"{kept} Compacted, too." if "compact" in spec.config.get("cleanup.policy", "") else kept


def _topic_operations() -> Json:
    """`receive`: Longwire reads what producers write. `send`: it writes what a product's servers may read."""
    found: Json = {}
    for topic in (*TOPICS, OWN_QUEUE):
        name = _channel_id(topic)
        for action in ("receive", "send") if topic.open else ("send",):
            found[f"{action}-{name}"] = _operation(action, name)
    return found


def _records() -> Json:
    return {record.__name__: _record(record) for record in RECORDS}


def _record(record: type[Record]) -> Json:
    schema = codec.load_schema(record.SCHEMA)
    return {
        "name": record.SCHEMA,
        "title": record.__name__,
        "summary": schema.get("doc", ""),
        "description": f"Avro single-object encoding, or Confluent's wire format where there is a registry. {_bounds(record)}",
        "contentType": "application/avro",
        "payload": {"schemaFormat": AVRO, "schema": schema},
        "bindings": {"kafka": {"key": {"type": "string"}, "bindingVersion": KAFKA_BINDING}},
    }


def _bounds(record: type[Record]) -> str:
    older = getattr(record, "OLDER", ())
    return f"At most {codec.MAX_RECORD} bytes." + (f" Read as well: {', '.join(older)}." if older else "")


# --- MQTT --------------------------------------------------------------------------------------------------------------

_DOWN: Final = f"Message Expiry Interval: the seconds that remain, at most {MAX_TTL_S}."
PUSH: Final = names.push_topic("{product}")
GROUP: Final = names.push_topic("{product}", "{group}")
UPLINK: Final = "up/{product}/{type}"
PULL: Final = "pull/{product}"
_PRODUCT: Final[Json] = {"product": {"description": f"`{names.PRODUCT_FORM}`, as the token allows."}}
_GROUP: Final[Json] = {"group": {"description": f"`{names.GROUP_FORM}`, as the token allows."}}
_TYPE: Final[Json] = {"type": {"description": f"`{names.TYPE_FORM}`: what the uplink is routed by."}}
_DEVICE_CHANNELS: Final = {
    "push": (PUSH, _PRODUCT, ("Push", "Notice"), "The bind of an app: SUBSCRIBE at QoS 0 or 1."),
    "push-group": (
        GROUP,
        {**_PRODUCT, **_GROUP},
        ("Push", "Notice"),
        "A group of a bound app: SUBSCRIBE with the bind or after it.",
    ),
    "uplink": (UPLINK, {**_PRODUCT, **_TYPE}, ("Up",), "What a device sends."),
    "pull": (PULL, _PRODUCT, ("Pull",), "A device asks for the body of a notice."),
}


def _device_channels() -> Json:
    return {
        name: {
            "address": address,
            "description": about,
            "parameters": parameters,
            "servers": [{"$ref": "#/servers/room"}],
            "messages": {each: _message(each) for each in messages},
        }
        for name, (address, parameters, messages, about) in _DEVICE_CHANNELS.items()
    }


def _device_operations() -> Json:
    found = {name: _operation("send", name, qos=1) for name in ("push", "push-group")}
    for name in ("uplink", "pull"):
        found[name] = _operation("receive", name, qos=1)
    reply = {"address": {"location": "$message.header#/responseTopic"}, "channel": {"$ref": "#/channels/push"}}
    found["uplink"]["reply"] = reply
    return found


def _packets() -> Json:
    binary: Json = {"type": "string", "format": "binary"}
    own = f"The sender's own: at most {MAX_PROPERTIES}, {MAX_PROPERTIES_BYTES} bytes."
    return {
        "Push": _packet(
            "A message with its body; PUBACK settles it",
            {**binary, "maxLength": MAX_PAYLOAD},
            _properties({"id": "A repeat has the same. Of a broadcast: the job's."}, own, required=["id"]),
            _DOWN,
        ),
        "Notice": _packet(
            "A message whose body is to be pulled; PUBACK frees the window and settles nothing",
            {**binary, "maxLength": 0},
            _properties(
                {
                    "id": "The message's.",
                    "pull": "The same.",
                    "size": "Bytes of the body.",
                    "pull-after": "Seconds to wait first.",
                },
                own,
                required=["id", "pull", "size"],
            ),
            _DOWN,
        ),
        "Up": _packet(
            "An uplink; PUBACK 0x00 means that Kafka has it",
            {**binary, "maxLength": MAX_PAYLOAD},
            _properties({"id": "Makes a repeat recognisable."}, own),
            "Response Topic: one of the connection's binds of that product; Correlation Data comes back with the reply.",
        ),
        "Pull": _packet(
            "Asks for a body, which comes as a message of its own",
            {**binary, "maxLength": 0},
            _properties({"id": "The notice's `pull`."}, "None.", required=["id"]),
            "",
        ),
    }


def _packet(title: str, payload: Json, headers: Json, description: str) -> Json:
    return {"title": title, "description": description, "headers": headers, "payload": payload}


def _properties(known: dict[str, str], others: str, required: list[str] | None = None) -> Json:
    """MQTT's user properties, as headers."""
    schema: Json = {
        "type": "object",
        "description": f"User properties. {others}",
        "properties": {name: {"type": "string", "description": text} for name, text in known.items()},
        "additionalProperties": {"type": "string"},
    }
    return {**schema, "required": required} if required else schema


# --- both --------------------------------------------------------------------------------------------------------------


def _message(name: str) -> Json:
    return {"$ref": f"#/components/messages/{name}"}


def _operation(action: str, channel: str, *, qos: int | None = None) -> Json:
    found: Json = {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}
    if qos is not None:
        found["bindings"] = {"mqtt": {"qos": qos, "retain": False, "bindingVersion": MQTT_BINDING}}
    return found
