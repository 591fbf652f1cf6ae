"""What a batch of hints writes: gathered while it is handled, and handed to the kernel together (docs/adr/0029).

Several messages for one connection are one write; each connection gets its own in the order in which they were added.
"""

from __future__ import annotations

from gateway.broadcast.sender import DEPTH, Sender
from gateway.client import Client
from gateway.ports import Shell


class Outbox:
    """Empty between batches: whoever adds to it calls `send` before anything else of the room runs.

    A connection's share stays below its soft cap and one message, as what is buffered of it does.
    """

    __slots__ = ("_by_fd", "_sender", "_shells")

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._by_fd: dict[int, bytes] = {}
        self._shells: list[Shell] = []

    def add(self, client: Client, data: bytes) -> None:
        """Write it with the others; at once where the socket can't be written to directly."""
        shell = client.shell
        fd = shell.direct
        if fd < 0:
            shell.write(data)
            return
        before = self._by_fd.get(fd)
        if before is None:
            self._by_fd[fd] = data
            self._shells.append(shell)
            if len(self._shells) == DEPTH:
                self.send()
        else:
            joined = before + data
            self._by_fd[fd] = joined
            if len(joined) > client.soft_cap:  # whether more may be written is the kernel's to say
                self.send()

    def send(self) -> None:
        """Write what was gathered. What a socket did not take its shell has afterwards."""
        shells = self._shells
        if not shells:
            return
        fds, data = list(self._by_fd), list(self._by_fd.values())
        self._by_fd.clear()
        self._shells = []
        for place, shell in enumerate(shells):
            if shell.direct != fds[place]:  # it was closed meanwhile, or written to
                _one_by_one(shells, data)
                return
        for place, sent in self._sender.send_each(fds, data):
            shells[place].wrote(data[place], sent)


def _one_by_one(shells: list[Shell], data: list[bytes]) -> None:
    """By the shells, which know what has become of their sockets."""
    for shell, own in zip(shells, data, strict=True):
        shell.write(own)
