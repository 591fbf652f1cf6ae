"""One `Settings` for every process: a TOML file under environment variables, all defaults here and nowhere else.

`LONGWIRE_CONFIG` names the file; `LONGWIRE_SECTION__KEY` overrides one value (`LONGWIRE_NATS__URL=nats://…`). An unknown key
in the file or in a section is an error. Durations are seconds as numbers, or text like `300ms`, `10s`, `5m`, `2h`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value.strip())
        if match is not None:
            return float(match[1]) * _UNITS[match[2]]
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]


class Section(BaseModel):
    """A group of settings: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NatsSettings(Section):
    """NATS ≥ 2.10 with JetStream. Empty `url`: `pushctl up` starts a local server."""

    url: str = ""
    credentials: Path | None = None
    request_timeout: Seconds = 3.0


class KafkaSettings(Section):
    """Kafka ≥ 3.7. Empty `bootstrap`: `pushctl up` starts a local broker."""

    bootstrap: str = ""
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


class RoomSettings(Section):
    """One gateway process. `port` 0: the kernel picks one. `advertise`: what clients are told, default host:port.

    `sender`: what writes broadcasts, `auto` the best that is here (docs/adr/0014).
    `max_memory`: bytes that this process may hold, 0: as many as its cgroup or the machine has; near it no connection is let in.
    `max_batches`: bytes of memory that unanswered requests to the workers may take before no client is let in: a room's own
    clients need about 1 KB each for theirs, and its uplinks stop being read at 16 MiB of themselves, some 48 MiB of memory.
    """

    id: str = ""
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    advertise: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    max_connections: int = Field(default=18_000, ge=1)
    connect_timeout: Seconds = 5.0
    packet_timeout: Seconds = 10.0
    max_write_buffer: int = Field(default=512 * 1024, ge=4096)
    sender: str = Field(default="auto", pattern="^(auto|python|send|io_uring)$")
    max_memory: int = Field(default=0, ge=0)
    max_batches: int = Field(default=64 * 1024 * 1024, ge=64 * 1024)
    drain: Seconds = 10.0


class CenterSettings(Section):
    """The HTTP API. `api_key` is asked for in `Authorization: Bearer` or `X-API-Key`."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    api_key: SecretStr = SecretStr("")


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
