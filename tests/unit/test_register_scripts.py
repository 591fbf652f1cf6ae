"""What of the shared Lua a script gets."""

from __future__ import annotations

from infra.register.scripts import with_needed

COMMON = """-- Shared.

local ONE, TWO = 1, 2
-- Says a word: unused.
local function word(a)
  return a
end

local function inner()
  return TWO
end

-- of inner
local function outer()
  return inner()
end
"""


def test_given_a_script_then_it_has_what_it_names_and_what_that_names_in_order_and_nothing_else() -> None:
    assert with_needed(COMMON, "return outer()") == (
        "local ONE, TWO = 1, 2\nlocal function inner()\n  return TWO\nend\n"
        "local function outer()\n  return inner()\nend\nreturn outer()"
    )


def test_given_a_script_that_names_nothing_or_only_in_a_comment_then_it_is_alone() -> None:
    assert with_needed(COMMON, "-- outer\nreturn 1") == "-- outer\nreturn 1"
