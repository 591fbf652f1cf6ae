"""The register's Lua: each script with what it needs of `common.lua`, as one incarnation of a shard knows it (docs/adr/0007).

The first line of every script names the incarnation, so its hash is the fence: who does not know the present generation has
nothing to run. Redis runs the whole text at each call, so what a script does not use is left out of it: making two dozen unused
functions was a tenth of what a message cost Redis (docs/benchmarks.md, Unicast).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from hashlib import sha1
from importlib import resources
from typing import Any, Final

from infra.register.marker import Incarnation
from infra.register.together import Calls

SCRIPTS: Final = (
    "connect", "open", "bind", "sync", "acks", "unbind", "leave", "disconnect", "pull", "peek", "state", "store", "sweep",
    "expire", "settle", "restore", "members", "user", "hand", "handed", "settledjob", "holding",
    "told", "tell", "untold", "bound", "there", "present", "presented",
)  # fmt: skip

Command = tuple[Any, ...]

_HEAD: Final = re.compile(r"^local (?:function )?([\w, ]+?)(?: = |\()", re.MULTILINE)
_WORD: Final = re.compile(r"\w+")


class ScriptSet:
    """Every script as one incarnation knows it; `purpose` keeps those of a fold apart from those of the open shard."""

    def __init__(self, incarnation: Incarnation, purpose: str) -> None:
        head = f"-- {purpose} {incarnation.run_id}\nlocal GENERATION = {incarnation.generation}\n"
        self.texts = {name: head + text for name, text in _texts().items()}
        self.shas = {name: sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in self.texts.items()}


def shard_script(name: str, key: str, *arguments: str | int) -> Command:
    """An EVAL of a script on a shard's marker: they work whatever is loaded."""
    return ("EVAL", _shard_text(name), 1, key, *arguments)


def evalsha(scripts: ScriptSet, calls: Calls) -> list[Command]:
    """(script, keys, arguments) as commands."""
    return [("EVALSHA", scripts.shas[name], len(keys), *keys, *arguments) for name, keys, arguments in calls]


@cache
def _texts() -> dict[str, str]:
    folder = resources.files("infra") / "lua"
    common = (folder / "common.lua").read_text()
    return {name: with_needed(common, (folder / f"{name}.lua").read_text()) for name in SCRIPTS}


def with_needed(common: str, script: str) -> str:
    """The script behind those definitions of `common` that it names, or that one of them names, in their order.

    A definition begins with `local` in the first column, and ends where the next one begins.
    """
    wanted, needed = set(_WORD.findall(_code(script))), list[str]()
    for names, text in reversed(list(_definitions(common))):  # Lua: what is used stands before its use
        if wanted & names:
            wanted |= set(_WORD.findall(text))
            needed.append(text)
    return "\n".join([*reversed(needed), script])


def _definitions(common: str) -> Iterator[tuple[set[str], str]]:
    """(names, text without comments) of each."""
    heads = list(_HEAD.finditer(common))
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        text = common[head.start() : following.start() if following else len(common)]
        yield set(_WORD.findall(head[1])), _code(text)


def _code(text: str) -> str:
    """Without empty lines and those that are comments."""
    return "\n".join(line for line in text.splitlines() if line and not line.startswith("--"))


@cache
def _shard_text(name: str) -> str:
    return (resources.files("infra") / "lua" / "shard" / f"{name}.lua").read_text()
