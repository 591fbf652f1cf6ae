"""Commands to bytes by hiredis, in C. redis-py does so for its blocking connections, and packs in Python for the others: that was
the largest part of what a stored message cost delivery, and an ack the saver (docs/benchmarks.md, Unicast)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import hiredis
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection

CHUNK: Final = 64 * 1024
"""Bytes that are written in one go, about: a transport takes many small ones slowly, and one large one by copying it."""


class _Packed(AbstractConnection):
    """Arguments are text, bytes and numbers; anything else is a TypeError."""

    def pack_commands(self, commands: Iterable[Iterable[Any]]) -> list[bytes]:
        """Many commands, in chunks."""
        chunks: list[bytes] = []
        pieces: list[bytes] = []
        size = 0
        for command in commands:
            piece = hiredis.pack_command(_words(tuple(command)))
            pieces.append(piece)
            size += len(piece)
            if size >= CHUNK:
                chunks.append(b"".join(pieces))
                pieces, size = [], 0
        return [*chunks, b"".join(pieces)] if pieces else chunks


def _words(command: tuple[Any, ...]) -> tuple[Any, ...]:
    """redis-py's own commands may have several words in their name: `SCRIPT LOAD`."""
    return (*command[0].split(), *command[1:]) if " " in command[0] else command


class _Plain(_Packed, Connection):
    """TCP."""


class _Encrypted(_Packed, SSLConnection):
    """TLS."""


_PACKED: Final[dict[type[Any], type[AbstractConnection]]] = {Connection: _Plain, SSLConnection: _Encrypted}


def packed(pool: BlockingConnectionPool) -> BlockingConnectionPool:
    """The pool, whose connections pack so from now on; a kind that is not known here stays as it is."""
    pool.connection_class = _PACKED.get(pool.connection_class, pool.connection_class)
    return pool
