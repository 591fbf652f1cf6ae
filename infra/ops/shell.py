"""What every command has: its settings, its system, its ending, its options."""
# Only click is imported here: `pushctl --help` must be quick.

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from infra.settings import KafkaSettings, NatsSettings, RedisSettings, Settings
    from infra.system import System

FAILED, USAGE, UNREACHABLE, NOT_FOUND, REFUSED, LATE, INTERRUPTED = 1, 2, 3, 4, 5, 6, 130

T = TypeVar("T")


class Ending(click.ClickException):
    """A command's end that is not success: one sentence on stderr, and a stable exit status."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status

    @property
    def exit_code(self) -> int:  # type: ignore[override]
        """What click exits with."""
        return self.status

    def show(self, file: Any = None) -> None:
        """The sentence alone."""
        click.echo(f"pushctl: {self.message}", err=True)


def settings_of(data: Path | None) -> Settings:
    """The settings, with the data folder of the command line; an Ending if they do not hold together."""
    from infra.settings import BadSettings, load

    try:
        return load(**({"data": data.absolute()} if data else {}))
    except BadSettings as error:
        raise Ending(f"the configuration does not hold together:\n{error}", FAILED) from error


def system_of(data: Path | None) -> System:
    """The running system of the data folder; an Ending if there is none."""
    from infra.system import NoSystem, find

    try:
        return find(settings_of(data))
    except NoSystem as error:
        raise Ending(str(error), UNREACHABLE) from error


def kafka_of(data: Path | None) -> KafkaSettings:
    """Kafka by the settings, or else that of the running system."""
    settings = settings_of(data)
    if settings.kafka.bootstrap:
        return settings.kafka
    return settings.kafka.model_copy(update={"bootstrap": system_of(data).kafka})


def nats_of(data: Path | None) -> NatsSettings | None:
    """NATS by the settings, or else that of the running system; None where there is neither."""
    from infra.system import read

    settings = settings_of(data)
    if settings.nats.url:
        return settings.nats
    system = read(settings.data)
    return settings.nats.model_copy(update={"url": system.nats}) if system else None


def redis_of(data: Path | None) -> RedisSettings:
    """Redis by the settings, or else that of the running system."""
    settings = settings_of(data)
    if settings.redis.url:
        return settings.redis
    return settings.redis.model_copy(update={"url": system_of(data).redis})


def run_main(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; what it may raise becomes a sentence and a status."""
    import uvloop

    statuses = _statuses()
    try:
        return uvloop.run(main)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except tuple(statuses) as error:
        status = next(code for kind, code in statuses.items() if isinstance(error, kind))
        raise Ending(str(error) or "it took too long", status) from error


def ask_center(data: Path | None, method: str, path: str, document: dict[str, Any] | None = None) -> Any:
    """Center's answer to one request, of the running system of the data folder. `document`: the body, or a GET's parameters."""
    from infra.ops.http import CenterClient

    async def ask() -> Any:
        async with CenterClient(system_of(data)) as center:
            match method:
                case "GET":
                    return await center.get(path, **(document or {}))
                case "PUT":
                    return await center.put(path, document or {})
                case _:
                    return await center.post(path, document or {})

    return run_main(ask())


def _statuses() -> dict[type[Exception], int]:
    from infra.agent import ProcessFailed
    from infra.bus import BusError
    from infra.journal import JournalDown
    from infra.local.errors import LocalBrokerError
    from infra.ops.again import TooMany
    from infra.ops.http import Answered, NotFound, Unreachable
    from infra.ops.logs import BadTime, NoTopic
    from infra.ops.up import AlreadyUp
    from infra.prefork import TooManyRooms
    from infra.register import RegisterDown
    from infra.system import NoSystem
    from schemas.names import BadName

    statuses: dict[type[Exception], int] = {
        NotFound: NOT_FOUND,
        Answered: REFUSED,
        Unreachable: UNREACHABLE,
        NoSystem: UNREACHABLE,
        BusError: UNREACHABLE,
        JournalDown: UNREACHABLE,
        RegisterDown: UNREACHABLE,
        NoTopic: NOT_FOUND,
        BadTime: FAILED,
        TooMany: FAILED,
        TooManyRooms: FAILED,
        TimeoutError: LATE,
        BadName: FAILED,
        AlreadyUp: FAILED,
        LocalBrokerError: FAILED,
        ProcessFailed: FAILED,
    }
    try:
        from pushclient import PushError
    except ImportError:  # the SDK is a wheel of its own; only `listen` and `demo` need it
        pass
    else:
        statuses[PushError] = REFUSED
    return statuses


def note(line: str) -> None:
    """A line on stderr."""
    click.echo(line, err=True)


def show(document: Any, as_json: bool, line: Callable[[Any], str]) -> None:
    """The result on stdout: as one JSON document, or as `line` renders it."""
    click.echo(json.dumps(document) if as_json else line(document))


data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="LONGWIRE_DATA",
    help="The system's data folder (default: ~/.local/state/longwire/default).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
