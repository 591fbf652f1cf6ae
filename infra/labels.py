"""Labels of rooms that mean something to the dispatcher (docs/operations.md, "Where devices are sent"). All others are free."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

POOL: Final = "pool"
"""Whose products' devices it takes; without it: those of products without a pool."""
REGION: Final = "region"
IDC: Final = "idc"
"""The data centre: what fails together."""
NETWORKS: Final = "networks"
"""For which networks it is, `4g,5g`; without it: all."""
WORD: Final = r"[a-z0-9][a-z0-9_-]{0,31}"
"""The form of a pool, a region, an IDC and a network."""

_WORDS: Final = re.compile(rf"{WORD}(,{WORD})*")


def wrong_with(labels: Mapping[str, str]) -> list[str]:
    """A sentence for each label that the dispatcher could not understand."""
    return [
        f"label {name} {labels[name][:40]!a} does not fit {WORD}"
        for name in (POOL, REGION, IDC, NETWORKS)
        if name in labels and (_WORDS.fullmatch(labels[name]) is None or (name != NETWORKS and "," in labels[name]))
    ]
