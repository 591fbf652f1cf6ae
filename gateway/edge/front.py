"""All ports of a room: its own, and the further ones that its settings name."""

from __future__ import annotations

import asyncio

from gateway.edge.arrival import Arrival
from gateway.edge.certificates import Certificates
from gateway.edge.entrance import Entrance
from gateway.edge.link import Link
from gateway.edge.listener import Listener
from gateway.edge.sockets import Sockets
from gateway.room import Room
from infra.settings import ListenerSettings, PortSettings
from infra.wire import Endpoint


class Front:
    """`start()` listens; `listen_no_more()`, and once all links are gone `stop()`."""

    def __init__(self, room: Room, certificates: Certificates | None) -> None:
        """`certificates`: needed where a port has TLS."""
        self._room = room
        self._certificates = certificates
        self._sockets: Sockets | None = None
        self._listeners: list[Listener] = []
        self._arrivals: set[Arrival] = set()
        self.endpoints: dict[str, Endpoint] = {}
        self.own = Endpoint(room.settings.host, room.settings.port)

    def start(self) -> None:
        """Listen. Raises OSError if an address is taken; `own` and `endpoints` are known afterwards: what clients are told."""
        settings = self._room.settings
        self._sockets = Sockets(asyncio.get_running_loop(), native=settings.sender != "python", ahead=Link.ahead)
        try:
            transport, self.own = self._listen(self._sockets, settings, settings.host)
            self.endpoints[transport] = self.own
            for port in settings.listeners:
                transport, told = self._listen(self._sockets, port, settings.host if port.host is None else port.host)
                if port.advertise or not port.shared:
                    self.endpoints.setdefault(transport, told)
        except OSError:
            self.listen_no_more()
            raise

    def _listen(self, sockets: Sockets, port: PortSettings, host: str) -> tuple[str, Endpoint]:
        entrance = Entrance(self._room, sockets, port, self._certificates, self._arrivals)
        shared = isinstance(port, ListenerSettings) and port.shared
        listener = Listener(entrance.accepted, shared=shared, native=sockets.native)
        number = listener.start(host, port.port)
        self._listeners.append(listener)
        return advertised(port, host, number)

    @property
    def ports(self) -> list[int]:
        """Where it listens: its own port, then the others in the order of the settings."""
        return [listener.port for listener in self._listeners]

    @property
    def reader(self) -> str:
        """What reads, once it listens: `c` (docs/adr/0030) or `python`."""
        return "c" if self._sockets is not None and self._sockets.native else "python"

    def rest(self, rest: bool) -> None:
        """Accept nobody while it rests: who connects waits in the kernel, and costs this process nothing."""
        for listener in self._listeners:
            listener.rest(rest)

    def listen_no_more(self) -> bool:
        """Close the ports, once; who has not told yet for whom it comes is closed. False if they were."""
        listened = bool(self._listeners)
        while self._listeners:
            self._listeners.pop().stop()
        for arrival in list(self._arrivals):
            arrival.end("draining")
        return listened

    def stop(self) -> None:
        """Watch no socket any more."""
        if self._sockets is not None:
            self._sockets.stop()
            self._sockets = None


def advertised(port: PortSettings, host: str, number: int) -> tuple[str, Endpoint]:
    """What clients are told of a port, and by which transport; what `advertise` leaves out is as the room listens."""
    transport, slashes, told = port.advertise.rpartition("://")
    if not slashes:
        transport, told = port.transport, port.advertise
    if not told:
        return transport, Endpoint(host, number)
    name, _, digits = told.rpartition(":")
    where = Endpoint(name, int(digits)) if digits.isdigit() and name else Endpoint(told, number)
    return transport, Endpoint(where.host.strip("[]"), where.port)
