"""Some broadcasts to some connections in one turn: what a connection wants of them is one write.

Who can be judged by a few comparisons is judged for all jobs at once, by their bits; everybody else goes job by job to
`FanOut.offer`. What many connections get is joined once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import Counter

from gateway.client import BindState, Client
from gateway.jobs import Job
from gateway.sender import Sender

settled = Counter("longwire_fanout_settled_total", "Broadcasts settled", ["state"])
WRITTEN: Final = settled.labels("written")

Offer = Callable[[Job, BindState, float], bool]
Watch = Callable[[Client], None]


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
        alike: dict[tuple[int, int], list[BindState]] = {}  # what they want and their QoS → who
        some: list[BindState] = []
        last = (0, 0)
        writes = nothing = 0
        for bind in binds:
            todo = every & ~(bind.sent | bind.settled)
            if not todo:
                nothing += 1
            elif (
                plain
                and bind.ready
                and bind.first_bind_ms <= newest_ms
                and not (bind.fenced or bind.early)
                and (not bind.qos or bind.client.broadcast_places() >= todo.bit_count())
            ):
                key = todo, bind.qos
                if key != last:  # mostly they want the same as the one before
                    last, some = key, alike.setdefault(key, [])
                some.append(bind)
            else:
                writes += self._one_by_one(bind)
        for job in self._jobs:
            job.skipped += nothing
        for (todo, qos), some in alike.items():
            writes += self._write(todo, qos, some)
        return writes

    def _one_by_one(self, bind: BindState) -> int:
        writes = 0
        for place, job in enumerate(self._jobs):
            if not job.wants(bind):
                job.skipped += 1
            elif self._offer(job, bind, self._now):
                self.persons[place] += 1
                writes += 1
        return writes

    def _write(self, todo: int, qos: int, some: list[BindState]) -> int:
        """Write the same to all of them, but for those whose Maximum Packet Size is below it."""
        packets = [job.packet(some[0], self._now) for job in self._jobs if todo & job.bit]
        data, largest = b"".join(packets), max(map(len, packets))
        fits = [bind for bind in some if bind.client.max_packet >= largest]
        alone = sum(self._one_by_one(bind) for bind in some if bind.client.max_packet < largest) if len(fits) < len(some) else 0
        for bind in fits:
            bind.sent |= todo
        if qos:
            self._take_places(fits, len(packets))
        drained = self._send(fits, data, 0 if qos else todo)
        for place, job in enumerate(self._jobs):
            if todo & job.bit:
                self.persons[place] += len(fits)
                job.sent += len(fits)
                job.written += drained
            else:
                job.skipped += len(fits)
        WRITTEN.inc(drained * len(packets))
        return len(fits) + alone

    def _take_places(self, binds: list[BindState], count: int) -> None:
        for bind in binds:
            client = bind.client
            if not client.broadcasts_inflight:
                client.broadcast_at = self._now
            client.broadcasts_inflight += count

    def _send(self, binds: list[BindState], data: bytes, settles: int) -> int:
        """To each; where the kernel takes all of it, these bits are settled. Returns how many that were, if there are bits."""
        straight: list[BindState] = []
        fds: list[int] = []
        others: list[BindState] = []
        watched: list[Client] = []
        for bind in binds:
            fd = bind.client.shell.direct
            if fd >= 0:
                straight.append(bind)
                fds.append(fd)
                bind.settled |= settles
            else:
                others.append(bind)
        for place, sent in self._sender.send(fds, data):
            bind = straight[place]
            bind.settled &= ~settles
            bind.client.shell.wrote(data, sent)
            watched.append(bind.client)
        for bind in others:
            if bind.client.shell.write(data):
                bind.settled |= settles
            else:
                watched.append(bind.client)
        if not settles:
            return 0
        for client in watched:
            self._watch(client)
        return len(binds) - len(watched)
