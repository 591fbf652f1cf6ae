"""`pushctl listen`: a device in the terminal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infra.ops.tokens import make_token
from infra.system import System

if TYPE_CHECKING:
    from pushclient import ConnectionState, PushClient, PushMessage


async def listen(
    system: System,
    *,
    client: str,
    product: str,
    groups: Sequence[str] = (),
    qos: Literal[0, 1] = 1,
    user: str = "",
    token: str = "",
    count: int = 0,
    timeout: float = 0,
    as_json: bool = False,
    say: Callable[[str], None],
    note: Callable[[str], None],
) -> int:
    """Bind and print what comes, one line a message, until `count` messages or `timeout` seconds (0: for ever).

    Returns how many came. `say` gets the messages, `note` what happens to the connection (not with `as_json`).
    """
    from pushclient import PushClient

    bearer = token or make_token(Path(system.data), client=client, product=product, user=user, groups=groups)
    seen = 0
    try:
        device = PushClient(
            client_id=client, token=bearer, dispatch=system.center, on_state=None if as_json else lambda state: _tell(state, note)
        )
        async with asyncio.timeout(timeout or None), device:
            granted = await device.bind(product, groups=tuple(groups), qos=qos)
            if not as_json:
                note(f"{client} is bound to {product} at QoS {granted}; Ctrl-C ends")
            async for message in device.messages():
                shown = await _body(device, message)
                say(json.dumps(_document(shown)) if as_json else _line(shown))
                await shown.ack()
                seen += 1
                if count and seen >= count:
                    await message.ack()
                    break
    except TimeoutError:
        return seen
    return seen


async def _body(device: PushClient, message: PushMessage) -> PushMessage:
    """The message that a notice is of, or the notice where its body is not to be had this way."""
    from pushclient import PullRefused

    if message.pull is None:
        return message
    try:
        return await device.pull(message)
    except PullRefused:
        return message


def _tell(state: ConnectionState, note: Callable[[str], None]) -> None:
    where = f" to {state.address[0]}:{state.address[1]}" if state.address else ""
    if state.connected:
        note(f"connected{where}")
    elif state.retry_in_s is not None:
        note(f"not connected ({printable(state.text.encode())}); again in {state.retry_in_s:.1f} s")


def printable(payload: bytes) -> str:
    """A payload for a terminal: text as it is but for control characters, which are escaped (they could drive the terminal)."""
    text = payload.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _document(message: PushMessage) -> dict[str, Any]:
    return {
        "id": message.id,
        "topic": message.topic,
        "payload": printable(message.payload),
        "qos": message.qos,
        "duplicate": message.duplicate,
    }


def _line(message: PushMessage) -> str:
    text = f"(a body of {message.size} bytes, by HTTP)" if message.pull else printable(message.payload)
    return f"{printable(message.topic.encode())}  {printable((message.id or '-').encode())}  {text}"
