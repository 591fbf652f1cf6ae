"""A link with stages between its socket and MQTT: TLS, WebSocket, or one over the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.edge.link import CLOSED, Link
from gateway.edge.sockets import Sockets
from gateway.edge.stages import Stage, failures
from gateway.edge.tls import Tls

if TYPE_CHECKING:
    from gateway.room import Room


class StagedLink(Link):
    """`gateway.ports.Shell` through stages, the lowest first. A plain link pays nothing for it.

    Before CONNECT the peer has the time that `room.tls.handshake_timeout` gives for TLS; what follows, an upgrade included, has
    to be here within `room.connect_timeout`.
    """

    __slots__ = ("_demanding", "_stages", "_transport")

    def __init__(
        self,
        room: Room,
        sockets: Sockets,
        fd: int,
        peer: int,
        stages: tuple[Stage, ...],
        *,
        transport: str,
        demanding: bool = False,
    ) -> None:
        """`demanding`: the peer's certificate says who it is."""
        self._stages = stages
        self._demanding = demanding
        self._transport = transport
        super().__init__(room, sockets, fd, peer)
        if isinstance(stages[0], Tls):
            self._session.expect(room.settings.tls.handshake_timeout)

    @property
    def transport(self) -> str:
        """See `gateway.ports.Shell`."""
        return self._transport

    @property
    def names(self) -> frozenset[str] | None:
        """See `gateway.ports.Shell`."""
        lowest = self._stages[0]
        return lowest.names() if self._demanding and isinstance(lowest, Tls) else None

    # --- out -----------------------------------------------------------------------------------------------------------

    def _way(self) -> int:
        """Never: nothing goes to the kernel as it is."""
        return CLOSED

    def write(self, data: bytes, /) -> bool:
        """See `gateway.ports.Shell`."""
        return not self._closing and self._say(data, len(self._stages))

    def _say(self, data: bytes, above: int) -> bool:
        """Send what comes from above the first `above` stages. True if the kernel has taken it."""
        for depth in range(above - 1, -1, -1):
            data = self._stages[depth].wrap(data)
        return bool(data) and not self._closing and Link.write(self, data)

    def close(self, last: bytes = b"") -> None:
        """See `gateway.ports.Shell`. Before CONNECT it is for a deadline, or since the room ends."""
        unopened = self._unopened
        if unopened is not None and not self._closing:
            failures.labels(unopened.name, "draining" if self._room.draining else "timeout").inc()
        elif last:
            self.write(last)
        self._part()

    def _part(self) -> None:
        """The last words of each stage, from the top."""
        for depth in range(len(self._stages) - 1, -1, -1):
            if not self._closing:
                self._say(self._stages[depth].farewell(), depth)
        Link.close(self)

    @property
    def _unopened(self) -> Stage | None:
        """The lowest stage whose handshake is not done."""
        return next((stage for stage in self._stages if not stage.open), None)

    # --- in ------------------------------------------------------------------------------------------------------------

    def _let_read(self) -> None:
        """Never: what is read here is not MQTT yet."""

    def _broken(self) -> None:
        self._count_left()
        self.abort()

    def _hung_up(self) -> None:
        self._count_left()
        self._part()

    def _receive(self, data: bytes) -> None:
        """Bytes of the lowest stage came."""
        self._climb(data)
        for depth, stage in enumerate(self._stages):
            self._say(stage.take(), depth)
        ended = [stage for stage in self._stages if stage.ended is not None]
        if ended and not self._closing:
            if ended[0].ended:
                failures.labels(ended[0].name, ended[0].ended).inc()
            self._part()

    def _climb(self, data: bytes) -> None:
        """Pass bytes up through the stages; what comes out at the top is MQTT."""
        for depth, stage in enumerate(self._stages):
            opened = stage.open
            data = stage.receive(data)
            if not opened:
                self._say(stage.take(), depth)
                if stage.open and isinstance(stage, Tls):
                    self._session.expect(self._room.settings.connect_timeout)
            if not data or self._closing:
                return
        super()._receive(data)

    def _count_left(self) -> None:
        unopened = self._unopened
        if unopened is not None:
            failures.labels(unopened.name, "left").inc()
