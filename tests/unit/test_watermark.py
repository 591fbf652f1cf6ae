"""The memory: a mark that does not flicker, and what the kernel says of this process and its limits."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.memory import limit, resident
from gateway.admission.watermark import Watermark


def test_given_a_level_that_rises_and_falls_then_the_mark_is_left_lower_than_it_was_passed() -> None:
    mark = Watermark(0.9, 0.8)
    assert [mark.rise(level) for level in (0.85, 0.9, 0.85, 0.81, 0.8, 0.85, 0.95)] == [
        False,
        True,
        True,
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(("high", "low"), [(1, 2), (1, -1)])
def test_given_marks_the_wrong_way_round_then_they_are_refused(high: float, low: float) -> None:
    with pytest.raises(ValueError, match="low mark"):
        Watermark(high, low)


@given(st.lists(st.floats(0, 1)))
def test_given_any_levels_then_it_is_over_above_and_not_below_whatever_came_before(levels: list[float]) -> None:
    mark = Watermark(0.7, 0.4)
    before = False
    for level in levels:
        over = mark.rise(level)
        assert over == (True if level >= 0.7 else False if level <= 0.4 else before)
        before = over


def test_the_memory_of_this_process_grows_with_what_it_holds() -> None:
    before = resident()
    held = b"x" * (64 << 20)
    assert resident() - before > 48 << 20
    assert len(held)
    assert 1 << 20 < before < limit()


def test_without_proc_the_most_that_there_ever_was_is_known(tmp_path: Path) -> None:
    assert resident(tmp_path) > 1 << 20


CGROUPS = {
    "version 2, its own": ("0::/a/b\n", {"sys/fs/cgroup/a/b/memory.max": "3000000\n", "sys/fs/cgroup/a/memory.max": "max\n"}),
    "version 2, one around it": (
        "0::/a/b\n",
        {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/memory.max": "3000000\n"},
    ),
    "version 2, in a container": ("0::/\n", {"sys/fs/cgroup/memory.max": "3000000\n"}),
    "version 1": ("4:memory:/a\n0::/\n", {"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "3000000\n"}),
    "version 1, one around it": (
        "4:cpu,memory:/a\n",
        {
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000000\n",
        },
    ),
}


@pytest.mark.parametrize(("cgroup", "files"), CGROUPS.values(), ids=CGROUPS.keys())
def test_given_a_cgroup_with_a_limit_then_the_least_of_them_holds(tmp_path: Path, cgroup: str, files: dict[str, str]) -> None:
    for name, text in {"proc/self/cgroup": cgroup, **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert limit(tmp_path) == 3_000_000


def test_given_no_limit_then_the_machines_memory_is_one(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a\ngarbage\n")
    assert 1 << 28 < limit(tmp_path) < 1 << 50
