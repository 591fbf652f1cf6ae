"""docs/bad-input.md has every row of the list of threats, and names tests that exist; every attack there has been measured."""

from __future__ import annotations

import re
from pathlib import Path

from edge_attacks import ATTACKS
from test_conformance_table import TEST, TESTS, functions

PAGE = Path(TESTS).parent / "docs" / "bad-input.md"

THREATS = """
slowloris|length bombs|endless websocket continuation|unmasked frames|permessage-deflate|caps by address, /64|accept-rate bucket
forged proxy header|alg: none|wrong aud|future iat|another product's key|a replayed token|ids with *, >, crlf, }{, 4 kb
ids with nul|every api call with another product's id|acks of foreign or future ids|a million acks|control characters in logs
webhooks to inner addresses|rebinding|redirects|signatures: id.timestamp.body, ±5 min, two keys in rotation
secrets in logs, dumps and error texts
"""


def rows(cells: int) -> list[list[str]]:
    """The tables' rows that have so many cells, without their heads."""
    lines = [line[2:-2] for line in PAGE.read_text().split("\n") if line.startswith("| ") and line.endswith(" |")]
    found = [[cell.strip() for cell in line.split(" |")] for line in lines]
    return [row for row in found if len(row) == cells and row[0] not in ("row", "attack")]


def test_every_threat_has_a_row() -> None:
    shown = "\n".join(row[0].replace("`", "").lower() for row in rows(4))
    missing = [threat for threat in re.split(r"[|\n]", THREATS.strip()) if threat not in shown]
    assert missing == []


def test_every_row_names_tests_that_exist() -> None:
    named = [(row[0], TEST.findall(row[3])) for row in rows(4)]
    assert [row for row, tests in named if not tests] == []
    assert [(row, f"{file}::{name}") for row, tests in named for file, name in tests if name not in functions(file)] == []


def test_every_attack_is_in_the_table_of_what_was_measured() -> None:
    assert [row[0].replace(" ", "_").lower() for row in rows(3)] == list(ATTACKS)
