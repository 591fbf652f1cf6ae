"""Some broadcasts to some connections in one turn: what a connection wants of them is one write.

Who can be judged by a few comparisons is judged for all jobs at once, by their bits; everybody else goes job by job to
`FanOut.offer`. What many connections get is joined once, and what the kernel has to be told is gathered on the same way: a walk
looks at each bind, its client and its socket once (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from gateway import metrics
from gateway.broadcast.jobs import Job
from gateway.broadcast.sender import Sender
from gateway.client import BindState, Client

WRITTEN: Final = metrics.fanout_settled.labels("written")

Offer = Callable[[Job, BindState, float], bool]
Watch = Callable[[Client], None]


class _Alike:
    """Binds that get the same: some jobs' packets at one QoS. `fds` are the sockets of `straight`; `others` are written by their
    shells."""

    __slots__ = ("bits", "count", "data", "fds", "largest", "others", "qos", "straight")

    def __init__(self, bits: int, qos: int, packets: list[bytes]) -> None:
        self.bits = bits
        self.qos = qos
        self.count = len(packets)
        self.data = b"".join(packets)
        self.largest = max(map(len, packets))
        self.straight: list[BindState] = []
        self.fds: list[int] = []
        self.others: list[BindState] = []


class Volley:
    """Jobs of one product that go to the same binds now. `offer(job, bind, now)` writes one alone, with all that may stand in its
    way, and says whether it did; `watch(client)` hears who was written to at QoS 0 without the kernel taking all of it; `sender`
    writes the same to many.

    `persons`: job by job, to how many it was written.
    """

    def __init__(self, jobs: Sequence[Job], now: float, *, offer: Offer, watch: Watch, sender: Sender) -> None:
        self.persons = [0] * len(jobs)
        self._jobs = jobs
        self._now = now
        self._offer = offer
        self._watch = watch
        self._sender = sender
        self._every = 0
        for job in jobs:
            self._every |= job.bit
        self._newest_ms = min(job.newest_ms for job in jobs)
        self._plain = all(job.plain for job in jobs)

    def fire(self, binds: Sequence[BindState]) -> int:
        """Write to those of the binds that want something; returns how many writes that were."""
        every, newest_ms, plain = self._every, self._newest_ms, self._plain
        groups: dict[tuple[int, int], _Alike] = {}
        bits = qos = largest = -1
        straight: list[BindState] = []
        fds: list[int] = []
        others: list[BindState] = []
        writes = nothing = 0
        for bind in binds:
            todo = every & ~(bind.sent | bind.settled)
            if not todo:
                nothing += 1
                continue
            if not plain or not bind.ready or bind.first_bind_ms > newest_ms or bind.fenced or bind.early:
                writes += self._one_by_one(bind)
                continue
            if todo != bits or bind.qos != qos:  # mostly they want the same as the one before
                bits, qos = todo, bind.qos
                alike = groups.get((bits, qos)) or groups.setdefault((bits, qos), self._alike(bits, bind))
                straight, fds, others, largest = alike.straight, alike.fds, alike.others, alike.largest
            client = bind.client
            if client.max_packet < largest or (qos and not self._has_places(client, bits)):
                writes += self._one_by_one(bind)
                continue
            bind.sent |= bits
            fd = client.shell.direct
            if fd >= 0:
                straight.append(bind)
                fds.append(fd)
            else:
                others.append(bind)
        for job in self._jobs:
            job.skipped += nothing
        return writes + sum(map(self._write, groups.values()))

    def _one_by_one(self, bind: BindState) -> int:
        writes = 0
        for place, job in enumerate(self._jobs):
            if not job.wants(bind):
                job.skipped += 1
            elif self._offer(job, bind, self._now):
                self.persons[place] += 1
                writes += 1
        return writes

    def _alike(self, bits: int, bind: BindState) -> _Alike:
        return _Alike(bits, bind.qos, [job.packet(bind, self._now) for job in self._jobs if bits & job.bit])

    def _has_places(self, client: Client, bits: int) -> bool:
        """Are there places for all of them? Then they are taken."""
        count = bits.bit_count()
        if client.broadcast_places() < count:
            return False
        if not client.broadcasts_inflight:
            client.broadcast_at = self._now
        client.broadcasts_inflight += count
        return True

    def _write(self, alike: _Alike) -> int:
        """Write to all of them, and count it; returns how many they are."""
        watched = self._send(alike)
        persons = len(alike.straight) + len(alike.others)
        written = 0 if alike.qos else persons - len(watched)
        for place, job in enumerate(self._jobs):
            if alike.bits & job.bit:
                self.persons[place] += persons
                job.sent += persons
                job.written += written
            else:
                job.skipped += persons
        WRITTEN.value += written * alike.count
        for client in watched:
            self._watch(client)
        return persons

    def _send(self, alike: _Alike) -> list[Client]:
        """To each; at QoS 0 it is settled where the kernel took all of it, and the others' clients are returned."""
        settles = 0 if alike.qos else alike.bits
        data, straight = alike.data, alike.straight
        watched: list[Client] = []
        if settles:
            for bind in straight:
                bind.settled |= settles
        for place, sent in self._sender.send(alike.fds, data):
            bind = straight[place]
            bind.settled &= ~settles
            bind.client.shell.wrote(data, sent)
            watched.append(bind.client)
        for bind in alike.others:
            if bind.client.shell.write(data):
                bind.settled |= settles
            else:
                watched.append(bind.client)
        return watched if settles else []
