"""A consumer without a group: it reads what is there, commits nothing, and disturbs nobody."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaConsumer

from infra.consumer import Consumer
from infra.settings import KafkaSettings

CLOSE_WITHIN: Final = 5.0

log = structlog.get_logger("scratch")


def scratch_consumer(settings: KafkaSettings, *, name: str, **more: Any) -> AIOKafkaConsumer:
    """Not started yet, and nothing assigned; `more` goes to aiokafka. To be closed with `close`."""
    return Consumer(
        settings,
        client_id=name,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        request_timeout_ms=int(settings.request_timeout * 1000),
        **more,
    )


async def close(consumer: AIOKafkaConsumer) -> None:
    """In a task of its own: aiokafka cancels tasks of its own that never ran, and their CancelledError comes out of `stop()`."""
    stopping = asyncio.ensure_future(consumer.stop())
    await asyncio.wait({stopping}, timeout=CLOSE_WITHIN)
    if not stopping.done() or stopping.cancelled() or stopping.exception() is not None:
        stopping.cancel()
        log.debug("scratch consumer not closed cleanly")
