"""docs/conformance.md accounts for every statement of Appendix B of MQTT 5.0 once, and names tests that exist."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "conformance.md"

APPENDIX_B = """
1.5.4-1–3 1.5.5-1 1.5.7-1 2.1.3-1 2.2.1-2–6 2.2.2-1
3.1.0-1,2 3.1.2-1–30 3.1.3-1–12 3.1.4-1–6 3.2.0-1,2 3.2.2-1–22
3.3.1-1–13 3.3.2-1–20 3.3.4-1–10 3.4.2-1–3 3.5.2-1–3 3.6.1-1 3.6.2-1–3 3.7.2-1–3
3.8.1-1 3.8.3-1–5 3.8.4-1–8 3.9.2-1,2 3.9.3-1,2 3.10.1-1 3.10.3-1,2 3.10.4-1–6 3.11.2-1,2 3.11.3-1,2
3.12.4-1 3.14.0-1 3.14.1-1 3.14.2-1–4 3.14.4-1–3 3.15.1-1 3.15.2-1–3
4.1.0-1,2 4.2.0-1 4.3.1-1 4.3.2-1–5 4.3.3-1–13 4.4.0-1,2 4.5.0-1,2 4.6.0-1–6
4.7.0-1 4.7.1-1,2 4.7.2-1 4.7.3-1–4 4.8.2-1–6 4.9.0-1–3 4.12.0-1–7 4.12.1-1,2 4.13.1-1 4.13.2-1
6.0.0-1–4
"""
"""Of MQTT Version 5.0, OASIS Standard, 7 March 2019; `3.1.2-7–10,14` is 3.1.2-7 to 3.1.2-10, and 3.1.2-14."""

IDS = re.compile(r"(\d+\.\d+\.\d+)-(\d+(?:–\d+)?(?:,\d+(?:–\d+)?)*)")
ROW = re.compile(r"\| (?P<ids>[^|]+) \| (?P<what>[^|]+) \| (?P<tests>[^|]+) \|")
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def ids(text: str) -> list[str]:
    found = []
    for section, numbers in IDS.findall(text):
        for part in numbers.split(","):
            first, _, last = part.partition("–")
            found += [f"{section}-{number}" for number in range(int(first), int(last or first) + 1)]
    return found


def rows() -> list[tuple[str, str, list[tuple[str, str]]]]:
    """(ids, what, [(file, function)]) of each row of every table."""
    lines = [line for line in PAGE.read_text().split("\n") if line.startswith("| ") and not line.startswith("| id |")]
    found = []
    for line in lines:
        row = ROW.fullmatch(line)
        assert row, f"not a row of three cells: {line}"
        found.append((row["ids"], row["what"], TEST.findall(row["tests"])))
    return found


def elsewhere() -> str:
    """The ids that are accounted for without a test."""
    _, _, rest = PAGE.read_text().partition("## Not a room's affair\n")
    return rest.partition("\n## ")[0]


@lru_cache
def functions(file: str) -> frozenset[str]:
    path = TESTS / file
    if not path.is_file():
        return frozenset()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.parse(path.read_text()).body if isinstance(node, kinds))


def test_every_statement_of_appendix_b_is_accounted_for_once() -> None:
    asked = ids(APPENDIX_B)
    assert len(asked) == len(set(asked)) == 251
    told = Counter(ids(" ".join(row[0] for row in rows())) + ids(elsewhere()))
    assert sorted(set(asked) - set(told)) == []
    assert sorted(set(told) - set(asked)) == []
    assert [name for name, times in told.items() if times > 1] == []


def test_the_ids_of_a_row_are_nothing_but_ids() -> None:
    assert [text for text, _, _ in rows() if IDS.sub("", text).strip()] == []


def test_every_row_names_tests_that_exist() -> None:
    missing = [(text, f"{file}::{name}") for text, _, tests in rows() for file, name in tests if name not in functions(file)]
    assert missing == []
    assert [text for text, _, tests in rows() if not tests] == []


def test_what_is_read_of_the_page_is_what_a_reader_sees() -> None:
    assert ids("3.1.2-7–10,14 3.10.4-2") == ["3.1.2-7", "3.1.2-8", "3.1.2-9", "3.1.2-10", "3.1.2-14", "3.10.4-2"]
    assert TEST.findall("`unit/test_a.py::test_b`<br>`unit/test_c.py::test_d`") == [
        ("unit/test_a.py", "test_b"),
        ("unit/test_c.py", "test_d"),
    ]
    assert functions("unit/test_conformance_table.py") >= {"test_every_row_names_tests_that_exist"}
    assert "test_no_such" not in functions("unit/test_conformance_table.py")
