"""Apache Kafka's jars: named with their checksums in `kafka.lock`, fetched once, kept in the user's cache.

`python -m infra.local.jars fetch` is the child process that fetches them. It is one of its own because it makes
Python's TLS trust the system's certificates for the whole process, and because it can be ended at any moment: the
folder appears complete or not at all. After a change of version, `python -m infra.local.jars lock` resolves the coordinates
below anew and rewrites `kafka.lock`.
"""

import asyncio
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infra.local.errors import LocalBrokerError, no_jars
from infra.local.folder import FolderLock, require_space
from infra.local.process import Child

if TYPE_CHECKING:
    from jgo.maven import MavenContext

    from infra.local.broker import Progress

KAFKA_VERSION = "4.1.2"
# Resolved one by one: together, the managed versions of one would replace those of the other.
COORDINATES = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")
LOCK = Path(__file__).with_name("kafka.lock")
COMPLETE = "complete"  # the marker's name
SPACE_NEEDED = 256 << 20  # bytes
CONNECTIONS = 4
HTTP_TIMEOUT = 30  # seconds without a byte
FETCH_WITHIN = 900.0  # seconds
REPORT_EVERY = 5.0  # seconds


@dataclass(frozen=True, slots=True, order=True)
class Jar:
    """One line of the lock: `group:artifact:version` and the SHA-256 of its jar in hex."""

    coordinates: str
    sha256: str

    @property
    def file_name(self) -> str:
        """As the repository names it: `artifact-version.jar`."""
        _, artifact, version = self.coordinates.split(":")
        return f"{artifact}-{version}.jar"


def read_lock(file: Path = LOCK) -> tuple[Jar, ...]:
    """The jars of the lock; `#` begins a comment line."""
    lines = (line.split() for line in file.read_text().splitlines() if line and not line.startswith("#"))
    return tuple(Jar(coordinates, sha256) for sha256, coordinates in lines)


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where the jars of this version are kept: `longwire/kafka-VERSION` in the user's cache (XDG base directories)."""
    xdg = environment.get("XDG_CACHE_HOME", "")
    root = Path(xdg) if xdg.startswith("/") else Path.home() / ".cache"  # the standard: a relative one is ignored
    return root / "longwire" / f"kafka-{KAFKA_VERSION}"


def is_complete(folder: Path, jars: Iterable[Jar]) -> bool:
    """Whether every jar was put there, checked, and is still there."""
    return (folder / COMPLETE).exists() and all((folder / jar.file_name).exists() for jar in jars)


async def ensure(progress: "Progress") -> Path:
    """The folder with Kafka's jars, fetched if this is the first time. Raises LocalBrokerError if that fails."""
    folder, jars = cache_folder(os.environ), read_lock()
    if not is_complete(folder, jars):
        folder.parent.mkdir(parents=True, exist_ok=True)
        require_space(folder.parent, SPACE_NEEDED)
        progress(f"kafka: fetching version {KAFKA_VERSION} (45 MB, once)…")
        await _fetch_in_child(folder, len(jars), progress)
    return folder


async def _fetch_in_child(folder: Path, total: int, progress: "Progress") -> None:
    child = Child("kafka's jars", _beside(folder, ".log"))
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = (sys.executable, "-m", "infra.local.jars", "fetch")
    await child.start(command, env={**os.environ, "PYTHONPATH": path})
    try:
        reason = await _outcome(child, folder, total, progress)
    finally:
        await child.kill()
    if reason is not None:
        raise no_jars(reason, child.log, child.tail())


async def _outcome(child: Child, folder: Path, total: int, progress: "Progress") -> str | None:
    """Wait for the child, telling how far it is; None if it did its work, else what went wrong."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + FETCH_WITHIN
    while loop.time() < deadline:
        try:
            async with asyncio.timeout(REPORT_EVERY):
                ended = await child.exited()
        except TimeoutError:
            progress(f"kafka: {sum(1 for _ in _beside(folder, '.part').rglob('*.jar'))} of {total} jars…")
        else:
            return None if ended.code == 0 else ended.reason
    return f"not done within {FETCH_WITHIN:.0f} s"


def fetch(folder: Path, jars: tuple[Jar, ...]) -> None:
    """Download the jars, check them, and put `folder` in place as a whole; of several processes one does it.

    Raises OSError (network, disk), RuntimeError (not in the repository) or LocalBrokerError (a wrong checksum).
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(_beside(folder, ".lock"))
    lock.acquire(wait=True)
    try:
        if not is_complete(folder, jars):
            _fetch_into_place(folder, jars)
    finally:
        lock.release()


def _fetch_into_place(folder: Path, jars: tuple[Jar, ...]) -> None:
    part = _beside(folder, ".part")
    shutil.rmtree(part, ignore_errors=True)
    repository = part / "repository"
    repository.mkdir(parents=True)
    context = _maven(repository)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for jar, path in zip(jars, pool.map(lambda jar: _download(context, jar.coordinates), jars), strict=True):
            _check(jar, path)
            path.rename(part / jar.file_name)
    shutil.rmtree(repository)
    (part / COMPLETE).touch()
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _check(jar: Jar, path: Path) -> None:
    found = _sha256(path)
    if found != jar.sha256:
        raise LocalBrokerError(
            f"{jar.file_name}: the checksum is {found} and {LOCK.name} expects {jar.sha256}; "
            "something on the way changed the file. Nothing was kept."
        )


def _maven(repository: Path) -> "MavenContext":
    """A repository cache of our own, so that a file cut short never stays in the user's; mirrors come from jgo.conf."""
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    remotes = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    return MavenContext(repo_cache=repository, local_repos=[], remote_repos=remotes, timeout=HTTP_TIMEOUT)


def _download(context: "MavenContext", coordinates: str) -> Path:
    group, artifact, version = coordinates.split(":")
    return context.project(group, artifact).at_version(version).artifact().resolve()


def write_lock(file: Path, work: Path) -> None:
    """Resolve `COORDINATES`, download everything to `work`, and write what there is to `file`."""
    context = _maven(work)
    names = {name for root in COORDINATES for name in _with_dependencies(context, root)}
    jars = sorted(Jar(name, _sha256(_download(context, name))) for name in names)
    lines = [f"# {' '.join(COORDINATES)}: written by `python -m infra.local.jars lock`"]
    file.write_text("\n".join([*lines, *(f"{jar.sha256}  {jar.coordinates}" for jar in jars)]) + "\n")


def _with_dependencies(context: "MavenContext", coordinates: str) -> list[str]:
    from jgo.parse import Coordinate

    wanted = context.create_dependency(Coordinate.parse(f"{coordinates}:compile"))
    roots, others = context.resolver.resolve([wanted])
    kept = [*roots, *(other for other in others if other.scope in ("compile", "runtime"))]
    return [f"{item.groupId}:{item.artifactId}:{item.version}" for item in kept]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(folder.name + ending)


def main(arguments: list[str]) -> None:
    """The child process; the last line of its output says what went wrong."""
    import truststore

    truststore.inject_into_ssl()
    try:
        match arguments:
            case ["fetch"]:
                fetch(cache_folder(os.environ), read_lock())
            case ["lock"]:
                with tempfile.TemporaryDirectory() as work:
                    write_lock(LOCK, Path(work))
            case _:
                sys.exit("usage: python -m infra.local.jars fetch | lock")
    except (OSError, RuntimeError, LocalBrokerError) as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")


if __name__ == "__main__":
    main(sys.argv[1:])
