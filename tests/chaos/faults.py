"""All rows of the table (docs/guarantees.md), in its order."""

from __future__ import annotations

from typing import Final

from tests.chaos.fault import Fault
from tests.chaos.of_brokers import (
    KafkaCutFromWorker,
    KafkaDown,
    KvWiped,
    NatsDown,
    NatsSlow,
    RedisCutFromSaver,
    RedisDiskFull,
    RedisKilled,
    RedisSlow,
    RedisTailLost,
    RedisWiped,
)
from tests.chaos.of_campaigns import paused_faults
from tests.chaos.of_clients import ClientHalfOpen, ClientSlow, ReconnectStorm
from tests.chaos.of_processes import (
    CenterHalfClosed,
    CenterSigkill,
    ClockShift,
    RoomCutFromNats,
    RoomDrain,
    RoomSigkill,
    RoomSigstop,
    SaverSigstopLong,
    WorkerSigkill,
    WorkerSigstop,
)
from tests.chaos.of_webhooks import WebhookAway
from tests.chaos.traffic import HOUR

ROLES: Final = ("delivery", "saver", "broadcast", "coordinator")
FACTORS: Final = (0.5, 1.0, 3.0)


def every() -> list[Fault]:
    """All rows."""
    return [
        RoomSigkill(), RoomSigstop(), RoomDrain(), RoomCutFromNats(),
        *(WorkerSigkill(role) for role in ROLES),
        *(WorkerSigstop(role, factor) for role in ROLES for factor in FACTORS),
        SaverSigstopLong(), CenterSigkill(), CenterHalfClosed(), RedisKilled(), RedisTailLost(), RedisWiped(), RedisDiskFull(),
        RedisSlow(), RedisCutFromSaver(), NatsDown(), NatsSlow(), KvWiped(),
        *paused_faults(), KafkaDown(), KafkaCutFromWorker(), ClientHalfOpen(), ClientSlow(), ReconnectStorm(),
        WebhookAway(),
        ClockShift("clock-ahead", HOUR), ClockShift("clock-behind", -HOUR),
    ]  # fmt: skip


def short() -> list[Fault]:
    """Those of `make test`: SIGKILL of each, Redis wiped, Redis's tail lost, NATS down."""
    return [
        RoomSigkill(), *(WorkerSigkill(role) for role in ROLES), CenterSigkill(), RedisWiped(), RedisTailLost(), NatsDown(),
    ]  # fmt: skip
