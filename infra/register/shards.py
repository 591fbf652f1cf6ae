"""The shards of the register: which server has a key, and whether that server may be used (docs/adr/0007).

A server that was restarted, emptied or promoted has no scripts, so every call to it fails with NOSCRIPT. Scripts are loaded
only by who has seen, on that very connection, that the shard's marker names this server's `run_id` and is open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import NoScriptError, RedisError

from infra.register.marker import OPEN, Incarnation, Marker, read_marker, why_not_open
from infra.register.packing import packed
from infra.register.scripts import Command, ScriptSet, evalsha, shard_script
from infra.register.slots import SLOTS
from infra.register.together import Calls, Together
from infra.settings import RedisSettings

PIPELINE: Final = 100
"""Commands in one pipeline, at most."""
LOOK_EVERY: Final = 0.2
"""A shard that is not open is looked at again after this many seconds, whoever asks."""

log = structlog.get_logger("register")


class RegisterDown(Exception):
    """Redis did not answer in time, or refused: the outcome is unknown. Repeat it."""


class RegisterNotReady(RegisterDown):
    """Redis answers, but what it lost is not folded again yet: nothing was done. Repeat it."""


Answer = Any


class Shard:
    """One server with its slots. `name` is its first slot, which outlives a failover."""

    def __init__(self, redis: Redis, address: str, ranges: tuple[tuple[int, int], ...], timeout: float) -> None:
        """`timeout`: s for each round trip."""
        self.redis = redis
        self._timeout = timeout
        self.address = address
        self.ranges = ranges
        self.name = str(ranges[0][0])
        self.marker_key = f"longwire:{{{_tag(ranges)}}}"
        self._open: tuple[Incarnation, ScriptSet] | None = None
        self._together = Together(self._evaluate)
        self._looking = asyncio.Lock()
        self._closed_until = 0.0
        self._why = ""

    @property
    def incarnation(self) -> Incarnation | None:
        """The incarnation that this process knows to be open."""
        return self._open[0] if self._open else None

    async def pipe(self, commands: Sequence[Command]) -> list[Answer]:
        """Plain commands in pipelines; raises RegisterDown."""
        answers: list[Answer] = []
        try:
            for start in range(0, len(commands), PIPELINE):
                async with asyncio.timeout(self._timeout), self.redis.pipeline(transaction=False) as pipe:
                    for command in commands[start : start + PIPELINE]:
                        pipe.execute_command(*command)
                    answers += await pipe.execute()
        except NoScriptError:
            raise
        except (RedisError, OSError, TimeoutError) as error:
            raise RegisterDown(f"{self.address}: {type(error).__name__}: {error}") from error
        return answers

    async def evaluate(self, calls: Calls) -> list[Answer]:
        """Run scripts (name, keys, arguments) on the open shard; raises RegisterNotReady or RegisterDown."""
        return await self._together.ask(calls)

    async def _evaluate(self, calls: Calls) -> list[Answer]:
        _, scripts = self._open or await self._reopen()
        try:
            return await self.pipe(evalsha(scripts, calls))
        except NoScriptError:
            self._open = None
        _, scripts = await self._reopen()
        try:
            return await self.pipe(evalsha(scripts, calls))
        except NoScriptError as error:
            self._open = None
            raise RegisterNotReady(f"{self.address} was restarted") from error

    async def evaluate_fold(self, scripts: ScriptSet, calls: Calls) -> list[Answer]:
        """The same while it is folded, with the fold's own scripts."""
        try:
            return await self.pipe(evalsha(scripts, calls))
        except NoScriptError as error:
            raise RegisterNotReady(f"{self.address} was restarted again") from error

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[Redis]:
        """A client with one connection of its own, for as long as a round trip may take; the pool has it back whatever happens,
        also where the time is over just when it was taken."""
        one = self.redis.client()
        try:
            async with asyncio.timeout(self._timeout):
                await one.initialize()
                yield one
        finally:
            await one.aclose()

    async def look(self) -> tuple[str, Marker | None]:
        """The server's run id and its marker; raises RegisterDown."""
        try:
            async with self._one() as one:
                return await self._look(one)
        except (RedisError, OSError, TimeoutError) as error:
            raise RegisterDown(f"{self.address}: {type(error).__name__}: {error}") from error

    async def beat(self, positions: dict[str, int]) -> tuple[str, Marker | None, bool]:
        """Look, and if the shard is open write the beat: everything of these parts below these offsets is stored here.

        On one connection, which a restart breaks: else a beat could vouch on a new server for what only the old one had.
        """
        try:
            async with self._one() as one:
                run_id, marker = await self._look(one)
                if marker is None or marker.incarnation.run_id != run_id or marker.state != OPEN:
                    return run_id, marker, False
                flat = [word for pair in positions.items() for word in pair]
                command = shard_script("beat", self.marker_key, run_id, marker.incarnation.generation, *flat)
                taken = await one.execute_command(*command)  # type: ignore[no-untyped-call]
                return run_id, marker, bool(taken)
        except (RedisError, OSError, TimeoutError) as error:
            raise RegisterDown(f"{self.address}: {type(error).__name__}: {error}") from error

    async def load(self, marker: Marker, purpose: str, state: str) -> ScriptSet:
        """Load the scripts of an incarnation, if the marker still says so on the same connection; else RegisterNotReady."""
        scripts = ScriptSet(marker.incarnation, purpose)
        try:
            async with self._one() as one:  # a restart between would break it
                run_id, now = await self._look(one)
                if now is None or now.incarnation != marker.incarnation or run_id != now.incarnation.run_id or now.state != state:
                    raise RegisterNotReady(f"{self.address} is not {state} any more")
                for text in scripts.texts.values():
                    await one.script_load(text)
        except (RedisError, OSError, TimeoutError) as error:
            raise RegisterDown(f"{self.address}: {type(error).__name__}: {error}") from error
        return scripts

    def forget(self) -> None:
        """The shard is not what this process thought: look again before the next call."""
        self._open = None
        self._closed_until = 0.0

    async def _reopen(self) -> tuple[Incarnation, ScriptSet]:
        async with self._looking:
            if self._open is not None:
                return self._open
            if time.monotonic() < self._closed_until:
                raise RegisterNotReady(self._why)
            run_id, marker = await self.look()
            if marker is None or marker.incarnation.run_id != run_id or marker.state != OPEN:
                self._why = f"{self.address} is not ready: {why_not_open(run_id, marker)}"
                self._closed_until = time.monotonic() + LOOK_EVERY
                raise RegisterNotReady(self._why)
            scripts = await self.load(marker, OPEN, OPEN)
            self._open = (marker.incarnation, scripts)
            log.info("register open", shard=self.name, generation=marker.incarnation.generation)
            return self._open

    async def _look(self, one: Redis) -> tuple[str, Marker | None]:
        info: dict[str, Any] = await one.info("server")
        raw: dict[Any, Any] = await one.hgetall(self.marker_key)
        return str(info["run_id"]), read_marker({name.decode(): value.decode() for name, value in raw.items()})


class Shards:
    """All servers of the register. A single server is a cluster of one."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._shards: list[Shard] = []
        self._by_slot: list[Shard] = []
        self._cluster = False
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def start(self) -> None:
        """Connect, and read the topology; raises RegisterDown."""
        await self._read()

    async def stop(self) -> None:
        """Close the connections."""
        shards, self._shards = self._shards, []
        for shard in shards:
            await shard.redis.aclose(close_connection_pool=True)

    @property
    def all(self) -> list[Shard]:
        """Every shard, by its first slot."""
        return list(self._shards)

    def of(self, key: str) -> Shard:
        """The shard that has a key."""
        return self._by_slot[key_slot(key.encode())] if self._cluster else self._shards[0]

    def grouped(self, keys: Iterable[str]) -> list[tuple[Shard, list[int]]]:
        """The places of keys, by shard."""
        groups: dict[str, tuple[Shard, list[int]]] = {}
        for place, key in enumerate(keys):
            shard = self.of(key)
            groups.setdefault(shard.name, (shard, []))[1].append(place)
        return list(groups.values())

    async def refresh(self) -> None:
        """A cluster moved or lost something: read the topology again, once a second at most. Silent if nobody answers."""
        if not self._cluster or time.monotonic() - self._read_at < 1.0:
            return
        async with self._reading:
            if time.monotonic() - self._read_at >= 1.0:
                self._read_at = time.monotonic()
                try:
                    await self._read()
                except RegisterDown as error:
                    log.warning("topology not read", error=str(error)[:200])

    async def _read(self) -> None:
        first = self._client(self._settings.url)
        seeds = [first, *(shard.redis for shard in self._shards)]
        error: Exception = RegisterDown("no server")
        for seed in seeds:
            try:
                async with asyncio.timeout(self._settings.timeout):
                    self._cluster = bool((await seed.info("cluster")).get("cluster_enabled"))
                    raw = await seed.execute_command("CLUSTER SLOTS") if self._cluster else []  # type: ignore[no-untyped-call]
                    slots = _parse_slots(raw)
                break
            except (RedisError, OSError, TimeoutError) as failed:
                error = failed
        else:
            await first.aclose(close_connection_pool=True)
            raise RegisterDown(f"Redis at {_address(self._settings.url)} can't be used: {error}") from error
        self._read_at = time.monotonic()
        if not self._cluster:
            self._shards = [Shard(first, _address(self._settings.url), ((0, SLOTS - 1),), self._settings.timeout)]
            return
        await first.aclose(close_connection_pool=True)
        await self._take(slots)

    async def _take(self, slots: dict[str, list[tuple[int, int]]]) -> None:
        known = {(shard.address, shard.ranges): shard for shard in self._shards}
        shards = []
        for address, found in slots.items():
            ranges = tuple(sorted(found))
            shard = known.pop((address, ranges), None) or self._shard(address, ranges)
            shards.append(shard)
        self._shards = sorted(shards, key=lambda shard: shard.ranges)
        by_slot: list[Shard | None] = [None] * SLOTS
        for shard in self._shards:
            for low, high in shard.ranges:
                by_slot[low : high + 1] = [shard] * (high + 1 - low)
        if missing := by_slot.count(None):
            log.error("slots without a server", slots=missing)
        self._by_slot = [shard or self._shards[0] for shard in by_slot]  # the wrong server says so: MOVED, or CLUSTERDOWN
        for shard in known.values():
            await shard.redis.aclose(close_connection_pool=True)

    def _shard(self, address: str, ranges: tuple[tuple[int, int], ...]) -> Shard:
        return Shard(self._client(self._url_of(address)), address, ranges, self._settings.timeout)

    def _url_of(self, address: str) -> str:
        scheme, _, rest = self._settings.url.partition("://")
        credentials, at, _ = rest.rpartition("@")
        return f"{scheme}://{credentials}{at}{address}"

    def _client(self, url: str) -> Redis:
        settings = self._settings
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=settings.connections,
            timeout=settings.timeout,
            socket_timeout=None,  # a timer for each reply costs more than reading it: round trips have theirs (`Shard`)
            socket_connect_timeout=settings.timeout,
            retry=Retry(NoBackoff(), 0),  # a timeout is unknown, and a blind repeat applied twice (PITFALLS)
            protocol=2,
        )
        return Redis(connection_pool=packed(pool))


def _parse_slots(raw: Sequence[Any]) -> dict[str, list[tuple[int, int]]]:
    """`CLUSTER SLOTS`: [low, high, [host, port, …] of the master, …] → address → ranges."""
    found: dict[str, list[tuple[int, int]]] = {}
    for low, high, (host, port, *_), *_ in raw:
        found.setdefault(f"{host.decode()}:{port}", []).append((int(low), int(high)))
    return found


def _tag(ranges: tuple[tuple[int, int], ...]) -> str:
    """A hash tag that lies in the shard: the smallest number that does."""
    number = 0
    while not any(low <= key_slot(str(number).encode()) <= high for low, high in ranges):
        number += 1
    return str(number)


def _address(url: str) -> str:
    return url.rpartition("@")[2].rpartition("://")[2].partition("/")[0]
