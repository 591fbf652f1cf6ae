"""A Kafka broker and controller in one process (KRaft), from Apache's jars and a Java runtime that is found."""

import asyncio
import base64
import struct
import uuid
from pathlib import Path

from infra.local import jars, java_runtime
from infra.local.broker import Broker, Progress, silent
from infra.local.errors import died
from infra.local.ports import HOST, PortLease
from infra.local.process import Child

NODE = 1
FORMAT_WITHIN = 30.0  # seconds
# Sized for one person's machine. The controller is named by the static voters' list, and not by the one kept in the
# metadata log: so a data folder may be used with other ports at the next start. A short broker session lets a new start
# register at once after a crash: the controller holds the dead one's place until its session ends.
CONFIG = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={node}@{host}:{controller}
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}{more}
advertised.listeners=PLAINTEXT://{host}:{port}{advertised}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT
log.dirs={logs}
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
"""
# Quick to start rather than quick under full load: a small heap and the collector without threads of its own.
JAVA_OPTIONS = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
)
# The binding slf4j-simple: plain lines to the standard output. Those silenced print every setting at each start.
LOG_OPTIONS = (
    "-Dorg.slf4j.simpleLogger.logFile=System.out",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showThreadName=false",
    "-Dorg.slf4j.simpleLogger.levelInBrackets=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=info",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaConfig=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.server.config=warn",
)
METADATA_REQUEST = struct.pack(">hhihi", 3, 1, 0, -1, 0)  # api key 3, version 1, correlation 0, no client id, no topics


def config(port: int, controller: int, logs: Path, proxied: tuple[int, int] | None = None) -> str:
    """The server's properties file. `proxied`: one more listener's port, and the port that its clients are told."""
    more = f",PROXIED://{HOST}:{proxied[0]}" if proxied else ""
    told = f",PROXIED://{HOST}:{proxied[1]}" if proxied else ""
    return CONFIG.format(
        node=NODE, host=HOST, port=port, controller=controller, logs=escaped(str(logs)), more=more, advertised=told
    )


def escaped(text: str) -> str:
    """A value of a Java properties file: a backslash and anything beyond ASCII would be read as something else."""
    return "".join(char if " " <= char <= "~" and char != "\\" else _escape(char) for char in text)


def _escape(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


class KafkaServer(Broker):
    """`127.0.0.1:PORT`; its controller listens on a second port of its own."""

    name = "kafka"
    start_within = 60.0
    stop_within = 10.0

    def __init__(self, data: Path, *, port: int = 0, progress: Progress = silent) -> None:
        super().__init__(data, port=port, progress=progress)
        self._controller: PortLease | None = None
        self._proxied: tuple[PortLease, int] | None = None

    def behind(self, proxy: int) -> int:
        """Before the start: listen on one more port, whose clients are told the `proxy`'s; returns that port."""
        lease = PortLease("kafka's proxied listener")
        self._proxied = (lease, proxy)
        return lease.port

    @property
    def endpoint(self) -> str:
        """The bootstrap server for a client."""
        return f"{HOST}:{self.port}"

    def close(self) -> None:
        """Give all ports back."""
        super().close()
        if self._controller is not None:
            self._controller.close()
            self._controller = None
        if self._proxied is not None:
            self._proxied[0].close()
            self._proxied = None

    async def prepare(self) -> list[str]:
        """Java, the jars (fetched at the first time), a properties file, and a formatted log directory."""
        java = self._java(await java_runtime.find(), await jars.ensure(self.progress))
        if self._controller is None:
            self._controller = PortLease("kafka's controller")
        logs, file = self.folder / "logs", self.folder / "server.properties"
        proxied = (self._proxied[0].port, self._proxied[1]) if self._proxied else None
        file.write_text(config(self.port, self._controller.port, logs, proxied), encoding="ascii")
        if not (logs / "meta.properties").exists():  # the last thing that formatting writes
            await self._format(java, file)
        self._controller.hand_over()
        if self._proxied is not None:
            self._proxied[0].hand_over()
        return [*java, "kafka.Kafka", str(file)]

    async def answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """The cluster's metadata (Kafka protocol, Metadata version 1) names a live broker: topics can be made."""
        writer.write(struct.pack(">i", len(METADATA_REQUEST)) + METADATA_REQUEST)
        _size, _correlation, brokers = struct.unpack(">iii", await reader.readexactly(12))
        return bool(brokers > 0)

    def _java(self, program: Path, folder: Path) -> list[str]:
        temporary = self.folder / "tmp"  # native libraries are unpacked there: the system's may forbid to execute
        temporary.mkdir(exist_ok=True)
        options = (*JAVA_OPTIONS, *LOG_OPTIONS, f"-Djava.io.tmpdir={temporary}")
        return [str(program), *options, "-cp", str(folder / "*")]

    async def _format(self, java: list[str], file: Path) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        child = Child("kafka's format", self.log)
        await child.start([*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", f"--config={file}"])
        try:
            async with asyncio.timeout(FORMAT_WITHIN):
                ended = await child.exited()
        finally:
            await child.kill()
        if ended.code != 0:
            raise died(self.name, ended.reason, self.log, child.tail())
