"""One `Settings` for every process: a TOML file under environment variables, all defaults here and nowhere else.

`LONGWIRE_CONFIG` names the file; `LONGWIRE_SECTION__KEY` overrides one value (`LONGWIRE_NATS__URL=nats://…`). An unknown key
in the file or in a section is an error. Durations are seconds as numbers, or text like `300ms`, `10s`, `5m`, `2h`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from infra.labels import WORD, wrong_with

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = r"(\d+(?:\.\d+)?)(ms|s|m|h|d)"
_KEYWORDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(_DURATION, value.strip())
        if match is not None:
            return float(match[1]) * _UNITS[match[2]]
    return value


class _AlsoText:
    """A duration's JSON schema: the number, its bounds under JSON Schema's names (pydantic leaves its own behind a validator), or
    the text."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        number = {_KEYWORDS.get(name, name): value for name, value in handler(core).items()}
        return {"anyOf": [number, {"type": "string", "pattern": f"^{_DURATION}$"}]}


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0, allow_inf_nan=False), _AlsoText()]
Pause = Annotated[float, BeforeValidator(_seconds), Field(ge=0, allow_inf_nan=False), _AlsoText()]
"""Seconds, or none."""
Transport = Literal["mqtt", "mqtts", "ws", "wss"]
"""MQTT over TCP, TLS, WebSocket, or WebSocket over TLS."""


Region = Annotated[str, Field(pattern=f"^{WORD}$")]


class Section(BaseModel):
    """A group of settings: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NatsSettings(Section):
    """NATS ≥ 2.10 with JetStream. Empty `url`: `pushctl up` starts a local server."""

    url: str = ""
    credentials: Path | None = None
    request_timeout: Seconds = 3.0


SubjectStrategy = Literal["topic", "record", "topic-record"]


class KafkaSettings(Section):
    """Kafka ≥ 3.7. Empty `bootstrap`: `pushctl up` starts a local broker.

    `registry_url`: a schema registry by Confluent's API. Records are then written in Confluent's wire format, and read in both
    forms (docs/adr/0026). `registry_subjects`: what a schema is registered under; `registry_register` off: it has to be there.
    """

    bootstrap: str = ""
    registry_url: str = ""
    registry_subjects: SubjectStrategy = "topic"
    registry_register: bool = True
    partitions: int = Field(default=6, ge=1, le=4096)
    replication: int = Field(default=1, ge=1, le=5)
    request_timeout: Seconds = 10.0
    session_timeout: Seconds = 10.0


class RedisSettings(Section):
    """Redis ≥ 7.0 or Valkey, `noeviction`, AOF. Empty `url`: `pushctl up` starts a local server."""

    url: str = ""
    connections: int = Field(default=16, ge=1, le=1024)
    timeout: Seconds = 3.0


STOP_BESIDE_DRAIN: Final = 9.0
"""Seconds that a room's orderly end takes beside its drain, at most: looking for others, the last disconnects."""


class Certificate(Section):
    """PEM files: the server's certificate with its chain, and its unencrypted key; no `key`: it is in the same file."""

    certificate: Path
    key: Path | None = None


class TlsSettings(Section):
    """TLS 1.3 of a room's ports. The first certificate is for clients that ask for no name of the others. `client_ca`: whose
    certificates clients have where a port demands one."""

    certificates: tuple[Certificate, ...] = ()
    client_ca: Path | None = None
    handshake_timeout: Seconds = 5.0


class WebSocketSettings(Section):
    """`origins`: of web pages that may connect, like `https://app.example.com`; `*`: any. Devices name none, and need none."""

    path: str = Field(default="/mqtt", pattern=r"^/[!-~]*$")
    origins: tuple[str, ...] = ()


class PortSettings(Section):
    """One port of a room. 0: the kernel picks one. `advertise`: what clients are told, default host:port; after `mqtts://`
    where a balancer has the TLS. `proxy`: for balancers alone (`room.balancers`), which begin with a PROXY header, version 2.
    `client_certificates`: a client needs one of its own."""

    port: int = Field(default=0, ge=0, le=65535)
    advertise: str = Field(default="", pattern=r"^((mqtts?|wss?)://)?[^/\s]*$")
    transport: Transport = "mqtt"
    proxy: bool = False
    client_certificates: bool = False

    @property
    def has_tls(self) -> bool:
        """Is it encrypted?"""
        return self.transport in ("mqtts", "wss")

    @property
    def has_websocket(self) -> bool:
        """Does it begin with HTTP?"""
        return self.transport in ("ws", "wss")


class ListenerSettings(PortSettings):
    """A further port. `host`: the room's own unless given. `shared`: with other rooms of the machine, by SO_REUSEPORT; clients
    are not told of it unless `advertise` says how."""

    host: str | None = None
    shared: bool = False


class RoomSettings(PortSettings):
    """One gateway process, with its own port and `listeners` beside it. `host` "": all addresses. `balancers`: CIDRs.

    `sender`: what writes broadcasts, `auto` the best that is here (docs/adr/0014); with `python` C does not read either.
    `compiled`: run what `make compiled` has built, `auto` where it was built of these sources (docs/adr/0027).
    `max_memory`: bytes that this process may hold, 0: as many as its cgroup or the machine has; near it no connection is let in.
    `max_batches`: bytes of memory that unanswered requests to the workers may take before no client is let in: a room's own
    clients need about 1 KB each for theirs, and its uplinks stop being read at 16 MiB of themselves, some 48 MiB of memory.
    """

    id: str = ""
    host: str = "127.0.0.1"
    listeners: tuple[ListenerSettings, ...] = ()
    tls: TlsSettings = TlsSettings()
    websocket: WebSocketSettings = WebSocketSettings()
    balancers: tuple[IPvAnyNetwork, ...] = ()
    labels: dict[str, str] = Field(default_factory=dict)
    max_connections: int = Field(default=18_000, ge=1)
    connect_timeout: Seconds = 5.0
    packet_timeout: Seconds = 10.0
    max_write_buffer: int = Field(default=512 * 1024, ge=4096)
    sender: str = Field(default="auto", pattern="^(auto|python|send|io_uring)$")
    compiled: str = Field(default="auto", pattern="^(auto|on|off)$")
    max_memory: int = Field(default=0, ge=0)
    max_batches: int = Field(default=64 * 1024 * 1024, ge=64 * 1024)
    drain: Seconds = 10.0

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        ports: dict[str, PortSettings] = {"the room's own port": self}
        ports |= {f"listeners.{number}": port for number, port in enumerate(self.listeners)}
        wrong = [f"{name}: {text}" for name, port in ports.items() for text in self._wrong_with(port)]
        wrong += wrong_with(self.labels)
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _wrong_with(self, port: PortSettings) -> Iterator[str]:
        if port.has_tls and not self.tls.certificates:
            yield f"{port.transport} needs tls.certificates"
        if port.proxy and not self.balancers:
            yield "proxy needs balancers, the networks that may say for whom they come"
        if port.client_certificates and not (port.has_tls and self.tls.client_ca):
            yield "client_certificates needs mqtts or wss, and tls.client_ca"
        if isinstance(port, ListenerSettings) and port.shared and not port.port:
            yield "a shared port needs a number"


class CenterSettings(Section):
    """The HTTP API. `api_key` is asked for in `Authorization: Bearer` or `X-API-Key`.

    `balancers`: CIDRs of proxies whose X-Forwarded-For is believed. The region of a device that names none: `regions`, CIDR →
    region; else by `geo`, a MaxMind file, and `geo_regions`, code of a country or continent → region.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    api_key: SecretStr = SecretStr("")
    balancers: tuple[IPvAnyNetwork, ...] = ()
    regions: dict[IPvAnyNetwork, Region] = Field(default_factory=dict, max_length=4096)
    geo: Path | None = None
    geo_regions: dict[str, Region] = Field(default_factory=dict, max_length=1024)


class OutsideSettings(Section):
    """URLs that documents name: webhooks, health URLs, key sets. `private`: networks that are not public and may be called all
    the same, on a loopback address also without TLS; link-local ones never are. `ca`: a PEM file of further authorities whose
    certificates are believed."""

    private: tuple[IPvAnyNetwork, ...] = ()
    ca: Path | None = None


class TelemetrySettings(Section):
    """Log and the internal listener (`/healthz`, `/readyz`, `/metrics`). `report`: a file for where this process listens."""

    level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    format: str = Field(default="json", pattern="^(json|console)$")
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    report: Path | None = None


class Settings(BaseSettings):
    """Everything a Longwire process is told from outside. What changes at run time is in the keeper instead."""

    model_config = SettingsConfigDict(
        env_prefix="LONGWIRE_", env_nested_delimiter="__", extra="forbid", frozen=True, nested_model_default_partial_update=True
    )

    data: Path = Field(default_factory=lambda: Path.home() / ".local" / "state" / "longwire" / "default")
    nats: NatsSettings = NatsSettings()
    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    room: RoomSettings = RoomSettings()
    center: CenterSettings = CenterSettings()
    outside: OutsideSettings = OutsideSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over environment over the TOML file that `LONGWIRE_CONFIG` names."""
        path = os.environ.get("LONGWIRE_CONFIG")
        file = TomlConfigSettingsSource(settings_cls, Path(path)) if path else None
        return (init_settings, env_settings, *((file,) if file else ()))


class BadSettings(ValueError):
    """The settings do not hold together; the text has one line for each thing that is wrong."""


def load(**overrides: Any) -> Settings:
    """Read the settings; raises BadSettings with a line for every error: where, what, and what was given."""
    path = os.environ.get("LONGWIRE_CONFIG")
    if path and not Path(path).is_file():
        raise BadSettings(f"LONGWIRE_CONFIG names {path}, which is not a file")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors(include_input=False)]
        raise BadSettings("\n".join(lines)) from error
    except ValueError as error:  # a TOML file that does not parse
        raise BadSettings(str(error)) from error
