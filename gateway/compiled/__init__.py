"""The room compiled by mypyc: built where somebody asked for it (`make compiled`), never needed (docs/adr/0027).

A build lies in a folder named by a digest of what it was made of: a source that was changed since has another name, and is
interpreted. So nothing old is ever run, and nothing has to be removed first.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT: Final = Path(__file__).parents[2]
"""The folder of the packages."""
FOLDER: Final = Path(__file__).with_name("built")
GROUP: Final = "longwire_room"
"""The library that has the code; each module's own file only points to it."""
SUFFIX: Final = sysconfig.get_config_var("EXT_SUFFIX") or ".so"

MODULES: Final = (
    "gateway.client",
    "gateway.host",
    "gateway.metrics",
    "gateway.room",
    "gateway.wheel",
    *(f"gateway.admission.{name}" for name in ("addresses", "auth", "connect_rate", "flapping", "gate", "identity")),
    *(f"gateway.admission.{name}" for name in ("lists", "publish_rate", "refresh")),
    *(f"gateway.backend.{name}" for name in ("batcher", "saver_link")),
    *(f"gateway.broadcast.{name}" for name in ("ack_times", "caps", "eligibility", "fanout", "index", "jobs", "quiet")),
    *(f"gateway.broadcast.{name}" for name in ("together", "volley", "walk")),
    *(f"gateway.edge.{name}" for name in ("entrance", "link", "listener", "sockets", "staged")),
    *(f"gateway.mqtt.{name}" for name in ("fields", "forms", "framing", "mqtt311", "packets", "publish", "strict", "strings")),
    *(f"gateway.sessions.{name}" for name in ("ahead", "changes", "delivery", "early", "exchange", "flash", "lifetime")),
    *(f"gateway.sessions.{name}" for name in ("outbox", "pulling", "session", "states", "subscribing", "uplinking", "window")),
    *(f"infra.{name}" for name in ("buckets", "granting", "networks", "peers", "signatures", "tokens")),
)
"""What a connection runs through. Left out is what starts a room, most of what asks the brokers, and msgspec's structs."""

_PACKAGES: Final = ("gateway", "infra", "schemas")
"""A constant of any of them may be part of a build, as are the shapes of what these libraries give:"""
_LIBRARIES: Final = ("mqtt5", "msgspec", "prometheus-client", "structlog")


class NotCompiled(Exception):
    """The room can't be compiled, or runs interpreted; the text says why."""


def digest(root: Path = ROOT) -> str:
    """What a build is made of, as 32 hexadecimal digits: the sources, the Python, the libraries."""
    found = hashlib.sha256(SUFFIX.encode())
    for name in _LIBRARIES:
        found.update(f"{name} {version(name)}\n".encode())
    for file in sorted(file for package in _PACKAGES for file in (root / package).rglob("*.py")):
        content = file.read_bytes()
        found.update(f"{file.relative_to(root)} {len(content)}\n".encode())
        found.update(content)
    return found.hexdigest()[:32]


class Overlay(MetaPathFinder):
    """Finds the modules of one build before any source is looked for."""

    def __init__(self, build: Path) -> None:
        self._files = {GROUP + "__mypyc": build / f"{GROUP}__mypyc{SUFFIX}"}
        self._files |= {name: build / (name.replace(".", "/") + SUFFIX) for name in MODULES}

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        file = self._files.get(fullname)
        return None if file is None else importlib.util.spec_from_file_location(fullname, file)


def built(folder: Path = FOLDER) -> bool:
    """Was the room compiled here once, of whatever sources?"""
    return folder.is_dir() and any(folder.iterdir())


def use(folder: Path = FOLDER) -> None:
    """Import the room compiled from now on. Raises NotCompiled where no build is of these sources, and RuntimeError where a
    part of the room is imported already: half a room of each kind does not work."""
    if early := [name for name in MODULES if name in sys.modules]:
        raise RuntimeError(f"{early[0]} was imported before its compiled form could be")
    build = folder / digest()
    if not build.is_dir():
        raise NotCompiled("what was built is of other sources, Python or libraries" if built(folder) else "it was not built")
    sys.meta_path.insert(0, Overlay(build))


def choose(wanted: str) -> None:
    """As `room.compiled` says: `auto`, `on` or `off`. Raises NotCompiled where it is `on`, and cannot be."""
    if wanted == "off":
        return
    try:
        use()
    except NotCompiled as reason:
        if wanted == "on":
            raise NotCompiled(f"room.compiled is on: {reason} (make compiled)") from None


def compiled() -> bool:
    """Is this process's room compiled?"""
    return any(isinstance(finder, Overlay) for finder in sys.meta_path)
