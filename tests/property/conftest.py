"""Properties are many examples: how long they take is the machine's affair, and a busy one is no failure."""

from __future__ import annotations

from pathlib import Path

import pytest

WITHIN_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(WITHIN_S))
