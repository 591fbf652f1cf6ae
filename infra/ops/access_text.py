"""Access lists for a person."""

from __future__ import annotations

from typing import Any, Final

KINDS: Final = ("networks", "clients", "patterns")
EMPTY: Final = {"deny": "nobody", "allow": "everybody who is not denied", "uncounted": "nobody: all addresses have limits"}


def access_text(document: dict[str, Any]) -> str:
    """Each list with its entries, one a line."""
    lines = []
    for name, empty in EMPTY.items():
        entries = _lines(document[name] if name != "uncounted" else {"networks": document[name]})
        lines += [f"{name}:" if entries else f"{name}: {empty}", *(f"  {entry}" for entry in entries)]
    return "\n".join(lines)


def changed_text(document: dict[str, Any], target: str, named: dict[str, list[str]], *, lift: bool) -> str:
    """What a change led to; for `allow` also whom that lets in now, since its two halves are judged one by one."""
    said = f"{target} {'no longer has' if lift else 'has'} {', '.join(_lines(named))}"
    return f"{said}; {_allowed(document['allow'])}" if target == "allow" else said


def _lines(entries: dict[str, list[str]]) -> list[str]:
    return [f"{kind[:-1]} {entry}" for kind in KINDS for entry in entries.get(kind, ())]


def _allowed(allow: dict[str, list[str]]) -> str:
    where = "from its networks only" if allow["networks"] else "from anywhere"
    who = "the clients that it means" if allow["clients"] or allow["patterns"] else "everybody"
    return f"admitted is {who}, {where}" if who == "everybody" else f"admitted are {who}, {where}"
