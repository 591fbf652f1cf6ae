"""What becomes of an accepted socket on one of a room's ports: the stages that the port has, and a link."""

from __future__ import annotations

import os

from gateway.edge.arrival import STAGE, Arrival
from gateway.edge.certificates import Certificates
from gateway.edge.link import Link
from gateway.edge.listener import reset
from gateway.edge.sockets import Sockets
from gateway.edge.staged import StagedLink
from gateway.edge.stages import Stage, failures
from gateway.edge.tls import Tls
from gateway.edge.upgrade import Door
from gateway.edge.websocket import WebSocket
from gateway.room import Room
from infra.networks import Networks
from infra.settings import PortSettings


class Entrance:
    """One port's. `arrivals`: connections of the room whose PROXY header is not here; they count as connections."""

    def __init__(
        self, room: Room, sockets: Sockets, port: PortSettings, certificates: Certificates | None, arrivals: set[Arrival]
    ) -> None:
        """`certificates`: needed where the port's transport has TLS."""
        settings = room.settings
        self._room = room
        self._sockets = sockets
        self._port = port
        self._certificates = certificates if port.has_tls else None
        self._door = Door(settings.websocket.path, settings.websocket.origins) if port.has_websocket else None
        self._plain = self._certificates is None and self._door is None
        self._balancers = Networks(map(str, settings.balancers)) if port.proxy else None
        self._arrivals = arrivals

    def accepted(self, fd: int, peer: int) -> None:
        """A socket that does not block, of `peer` (`infra.peers`): on a port for balancers, only of one of them."""
        if self._balancers is None:
            self.welcome(fd, peer)
        elif peer not in self._balancers:
            failures.labels(STAGE, "unlisted").inc()
            os.close(fd)
        elif len(self._arrivals) >= self._room.settings.max_connections:
            failures.labels(STAGE, "full").inc()
            os.close(fd)
        else:
            Arrival(self._room, self._sockets, fd, peer, arrivals=self._arrivals, take=self.welcome)

    def welcome(self, fd: int, peer: int) -> None:
        """A client's socket, and the client's own address. Who may not stay is reset: the kernel keeps nothing of it either."""
        if not self._room.let_in(peer):
            reset(fd)
            return
        if self._plain:
            Link(self._room, self._sockets, fd, peer)
            return
        stages, port = self._stages(), self._port
        StagedLink(self._room, self._sockets, fd, peer, stages, transport=port.transport, demanding=port.client_certificates)

    def _stages(self) -> tuple[Stage, ...]:
        stages: list[Stage] = []
        if self._certificates is not None:
            stages.append(Tls(self._certificates.context(demanding=self._port.client_certificates)))
        if self._door is not None:
            stages.append(WebSocket(self._door))
        return tuple(stages)
