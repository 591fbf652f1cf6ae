"""Bodies that were asked for: a notice says that there is a message, its body is pulled over the connection."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from . import topics
from .errors import PullRefused, PullTimeout, UplinkRefused
from .messages import PushMessage
from .uplinks import Content

if TYPE_CHECKING:
    from .session import Session

Wanted = tuple[str, str]
"""(product, id)."""


class Expected:
    """A body that somebody waits for. `noticed`: its notice came again, so what was asked before may be lost."""

    __slots__ = ("body", "noticed", "waiting")

    def __init__(self) -> None:
        self.body: asyncio.Future[PushMessage] = asyncio.get_running_loop().create_future()
        self.noticed = asyncio.Event()
        self.waiting = 0


class Pulls:
    """Who waits for which body. Two that wait for one share it."""

    __slots__ = ("_expected",)

    def __init__(self) -> None:
        self._expected: dict[Wanted, Expected] = {}

    def expect(self, wanted: Wanted) -> Expected:
        """A body that shall come. `forget` it, whatever does."""
        expected = self._expected.get(wanted)
        if expected is None or expected.body.done():
            expected = self._expected[wanted] = Expected()
        expected.waiting += 1
        return expected

    def forget(self, wanted: Wanted, expected: Expected) -> bool:
        """One waits no more; True if it was the last."""
        expected.waiting -= 1
        if not expected.waiting and self._expected.get(wanted) is expected:
            del self._expected[wanted]
        return not expected.waiting

    def wants(self, message: PushMessage) -> bool:
        """Does somebody wait for this body? A notice is none."""
        return message.pull is None and self._find(message) is not None

    def noticed(self, notice: PushMessage) -> bool:
        """A notice came once more; True if its body is waited for already."""
        expected = self._find(notice)
        if expected is not None:
            expected.noticed.set()
        return expected is not None

    def resolve(self, message: PushMessage) -> None:
        """Hand a body to all who wait for it."""
        expected = self._find(message)
        if expected is not None:
            expected.body.set_result(message)

    def end(self, error: Exception) -> None:
        for expected in self._expected.values():
            if not expected.body.done():
                expected.body.set_exception(error)
                expected.body.exception()  # who pulls may still be waiting for the PUBACK, and fail by that

    def _find(self, message: PushMessage) -> Expected | None:
        expected = self._expected.get((message.product, message.id or ""))
        return None if expected is None or expected.body.done() else expected


async def pull(session: Session, notice: PushMessage, *, within: float) -> PushMessage:
    """The body of a notice: see `PushClient.pull`."""
    if notice.pull is None:
        raise ValueError(f"message {notice.id} is no notice: it has its body")
    wanted = (notice.product, notice.pull)
    pulls = session.receiver.pulls
    expected = pulls.expect(wanted)
    given = False
    try:
        async with asyncio.timeout(within):
            await asyncio.sleep(notice.arrived + notice.pull_after - asyncio.get_running_loop().time())
            content = Content(topic=topics.pull(notice.product), payload=b"", properties=[("id", notice.pull)])
            while not expected.body.done():
                expected.noticed.clear()
                await _ask(session, content, expected)
            message = await asyncio.shield(expected.body)
            given = True
            return message
    except TimeoutError as error:
        raise PullTimeout(f"no body of {notice.pull} of {notice.product} within {within:g} s") from error
    finally:
        last = pulls.forget(wanted, expected)
        if last and not given and expected.body.done() and expected.body.exception() is None:
            session.receiver.take_over(expected.body.result())  # it came too late for us: it is a message like any other


async def _ask(session: Session, content: Content, expected: Expected) -> None:
    """Send the pull, and wait for the body; return without it where the notice came again since. Raises PullRefused."""
    asking = asyncio.ensure_future(session.uplinks.send(content))
    noticed = asyncio.ensure_future(expected.noticed.wait())
    try:
        await asyncio.wait((asking, expected.body), return_when=asyncio.FIRST_COMPLETED)
        if not expected.body.done():
            asking.result()
            await asyncio.wait((noticed, expected.body), return_when=asyncio.FIRST_COMPLETED)
    except UplinkRefused as refused:
        raise PullRefused(refused.code, refused.reason) from None
    finally:
        noticed.cancel()
        asking.cancel()  # the PUBACK tells nothing more
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await asking
