"""A port on 127.0.0.1 that stays ours while its server is down."""

import errno
import socket
import sys

from infra.local.errors import port_taken

HOST = "127.0.0.1"


class PortLease:
    """Keeps a port for one server, over its restarts.

    A bound socket that never listens: the server may bind beside it (both reuse the address), but the kernel hands the
    port to no one else, neither to another `bind` of port 0 nor as the source of an outgoing connection. The latter
    matters: a client that redials a dead server on loopback may otherwise be given that very port, and reach itself.
    Only Linux lets two sockets share an address in this way; elsewhere the port is let go just before it is used.
    """

    def __init__(self, owner: str, port: int = 0) -> None:
        """Take `port`, or with 0 a free one of the kernel's choice. Raises LocalBrokerError if it is taken."""
        self._owner = owner
        self._holder: socket.socket | None = _bind(owner, port)
        self.port: int = self._holder.getsockname()[1]

    def hand_over(self) -> None:
        """Call just before the server starts. Raises LocalBrokerError if someone listens on the port already."""
        if self._holder is not None and not sys.platform.startswith("linux"):
            self.close()
        _bind(self._owner, self.port).close()

    def close(self) -> None:
        """Let go of the port."""
        if self._holder is not None:
            self._holder.close()
            self._holder = None


def _bind(owner: str, port: int) -> socket.socket:
    holder = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if port:  # never before a bind of port 0: the kernel could then choose one that is only held
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((HOST, port))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError as problem:
        holder.close()
        if problem.errno in (errno.EADDRINUSE, errno.EACCES):
            raise port_taken(owner, port) from problem
        raise
    return holder
