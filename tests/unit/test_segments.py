"""Segments: what an expression says of a client, in which order versions are, and what is refused, where and why."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import segments
from infra.segments import MAX_DEPTH, MAX_LIST, BadSegment
from infra.versions import version
from schemas.broadcasts import MAX_SEGMENT

IPHONE = {
    "platform": "ios",
    "app": "2.10.1",
    "lang": "de",
    "region": "eu-west",
    "age": "30",
    "custom.plan": "gold",
    "in-beta": "no",
}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('platform == "ios"', True),
        ("platform == 'ios'", True),
        ('platform != "ios"', False),
        ('platform == "android" || lang == "de"', True),
        ('platform == "ios" && lang == "fr"', False),
        ('lang == "fr" && lang == "fr" || platform == "ios"', True),
        ('platform == "ios" || lang == "fr" && lang == "fr"', True),
        ('(platform == "ios" || lang == "fr") && lang == "fr"', False),
        ('!(lang == "fr") && !!(lang == "de")', True),
        ('lang in ["fr", "de"]', True),
        ('lang in ["fr"]', False),
        ('age in ["x", 30.0]', True),
        ('app in [version("2.10.1.0"), "x"]', True),
        ('region.startsWith("eu")', True),
        ('region.startsWith("eu-east")', False),
        ('custom.plan.startsWith("go")', True),
        ('custom.plan == "gold"', True),
        ('attr("in-beta") == "no" && attr("in-beta").startsWith("n")', True),
        ("has(lang) && has(custom.plan) && has(attr('in-beta'))", True),
        ("missing(lang)", False),
        ("missing(tz) && !has(tz)", True),
        ("age >= 30 && age < 30.5 && age > -1", True),
        ('age < "4"', True),  # texts, in the order of their characters
        ("age < 4", False),
        ("lang > 3", False),
        ("lang != 3", False),
        ('app >= version("2.9")', True),
        ('app >= "2.9"', False),
        ('app < version("2.10.1-beta")', False),
        ('lang < version("2")', False),
        ('tz == "x"', False),
        ('tz != "x"', False),
        ('!(tz == "x")', True),
        ('tz in ["x"]', False),
        ('tz.startsWith("")', False),
        ('tz < 3 || tz >= 3 || tz < version("1")', False),
        ('version == "1" || has == "1" || missing == "1" || attr == "1"', False),
        (r'platform == "i\"\\os"', False),
        ('group("news") && platform == "ios"', True),
        ('group("sports") || group("news") && !group("sports")', True),
        ('group("sports")', False),
        ('group == "news" || has(group)', False),  # without parentheses: an attribute
    ],
)
def test_given_an_expression_when_asked_about_a_client_then_it_says_so(text, says):
    assert segments.compile(text).matches(IPHONE, {"news", "vip"}) is says


def test_given_escapes_when_compared_then_they_mean_the_character():
    assert segments.compile(r'a == "\"\\\'"').matches({"a": "\"\\'"})


def test_given_an_expression_when_compiled_then_its_attributes_are_named():
    assert segments.compile('a == "x" && (has(b.c) || attr("d e") in [1])').names == {"a", "b.c", "d e"}
    assert segments.compile('group("a") || group("b") && has(c)').groups == {"a", "b"}


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("", 0, "ends where an attribute"),
        ("   ", 0, "ends where an attribute"),
        ("1 == 1", 0, "names no attribute"),
        ('"ios" == platform', 0, "names no attribute"),
        ("platform", 8, "after attribute 'platform'"),
        ("true", 4, "after attribute 'true'"),
        ("platform ==", 11, "a text, a number or version"),
        ("platform = 'ios'", 9, "write =="),
        ("a == 1 & b == 2", 7, "write &&"),
        ("a == 'x", 5, "does not end"),
        (r'a == "\n"', 5, "another escape"),
        ("a == b", 5, "a text, a number"),
        ("a == 1 b == 2", 7, "one too many"),
        ("(a == 1", 7, ") belongs here"),
        ("a == 1)", 6, "one too many"),
        ("a in []", 6, "a text, a number"),
        ("a in ['x'", 9, "] belongs here"),
        ("a in 'x'", 5, "[ belongs here"),
        ("in == 1", 0, "'in' where an attribute belongs"),
        ("a.matches('(a+)+')", 0, "no function 'a.matches'"),
        ("size(a) == 1", 0, "no function 'size'"),
        ("has('a')", 4, "names no attribute"),
        ("attr(a) == 1", 5, "a text in quotes"),
        ("a >= version('ios')", 13, "is no version"),
        ("a == " + "1" * 65, 5, "a number of more than"),
        ("group(a)", 6, "a text in quotes"),
        ("group('A')", 6, "group 'A' does not fit"),
        ("group('a'", 9, ") belongs here"),
        ("a == 1 # b", 7, "belongs to no word"),
        ("a == \x00", 5, "belongs to no word"),
        ("(" * (MAX_DEPTH + 1) + "a == 1", MAX_DEPTH + 1, "in one another"),
        ("!" * 4000 + "has(a)", MAX_DEPTH + 1, "in one another"),
        ("a in [" + "1," * MAX_LIST + "1]", 6 + 2 * MAX_LIST + 1, "values in a list"),
        ("a" * (MAX_SEGMENT + 1), MAX_SEGMENT, "more than 4096 characters"),
    ],
)
def test_given_a_bad_expression_when_compiled_then_it_says_where_and_why(text, position, reason):
    with pytest.raises(BadSegment) as refused:
        segments.compile(text)
    assert refused.value.position == position
    assert reason in refused.value.reason


def test_given_bounds_when_met_exactly_then_it_compiles():
    assert segments.compile("(" * MAX_DEPTH + "a == 1" + ")" * MAX_DEPTH).matches({"a": "1.0"})
    assert segments.compile("a in [" + "1," * (MAX_LIST - 1) + "2]").matches({"a": "2"})
    assert segments.compile(" || ".join(["a == 1"] * 400)).matches({"a": "1"})


# --- versions ----------------------------------------------------------------------------------------------------------

ORDERED = [
    ["0", "0.0", "v0"],
    ["0.9"],
    ["1.0-alpha"],
    ["1.0.0-alpha.1"],
    ["1.0.0-alpha.beta"],
    ["1.0-beta"],
    ["1.0-beta.2", "1.0beta2", "1.0.beta-2"],
    ["1.0-beta11"],
    ["1.0.0-rc.1"],
    ["1", "1.0", "1.0.0", "v1.0", "V1", "1.0+build.7", "01.0"],
    ["1.0.1"],
    ["2.0-beta"],
    ["2.0"],
    ["2.9"],
    ["2.10"],
    ["10"],
    ["2024.11.28"],
]


def test_given_versions_when_compared_then_they_are_in_this_order():
    for i, j in itertools.product(range(len(ORDERED)), repeat=2):
        for one, other in itertools.product(ORDERED[i], ORDERED[j]):
            mine, theirs = version(one), version(other)
            assert mine is not None
            assert theirs is not None
            assert ((mine > theirs) - (mine < theirs)) == ((i > j) - (i < j)), (one, other)


@pytest.mark.parametrize(
    "text", ["", "ios", "v", "1.", ".1", "1..2", "1 ", "1.0\n", "1,0", "-1", "٣.٠", "1" * 129, "1-", "1.0(5)"]
)
def test_given_a_text_that_is_no_version_when_read_then_it_is_none(text):
    assert version(text) is None


VERSIONS = st.from_regex(r"[vV]?[0-9]{1,3}(\.[0-9]{1,3}){0,3}(-?[a-c]{1,2}(\.?[0-9]{1,2})?)?(\+[a-z0-9]{1,3})?", fullmatch=True)


@given(VERSIONS, VERSIONS, VERSIONS)
def test_given_any_versions_when_compared_then_the_order_is_total(a, b, c):
    x, y, z = version(a), version(b), version(c)
    assert x is not None
    assert y is not None
    assert z is not None
    assert (x < y) + (x == y) + (x > y) == 1
    assert not (x <= y <= z) or x <= z
    assert version(a.lower()) == x


@given(VERSIONS, st.integers(0, 9))
def test_given_a_version_when_it_goes_on_then_it_is_higher_and_its_pre_release_lower(text, more):
    numbers = text.lstrip("vV").split("+")[0]
    release = numbers[: next((i for i, char in enumerate(numbers) if char not in "0123456789."), len(numbers))].rstrip(".")
    here, before, after = version(release), version(release + "-a"), version(f"{release}.{more + 1}")
    assert here is not None
    assert before is not None
    assert after is not None
    assert before < here < after


# --- against a model ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A test of one attribute: (word, name, values)."""

    word: str
    name: str
    values: tuple[tuple[str, str], ...] = ()


Tree = Leaf | tuple[str, tuple[Any, ...]]

NAMES = st.sampled_from(["platform", "app", "age", "a.b", "x y"])
TEXTS = st.sampled_from(["ios", "io", "", "2.10", "2.9", "2.0-beta", "7", "7.0", "-3", 'q"\\', "é"])
LITERALS = st.one_of(
    st.tuples(st.just("text"), TEXTS),
    st.tuples(st.just("number"), st.sampled_from(["7", "7.00", "-3", "0", "2.9", "2.10"])),
    st.tuples(st.just("version"), st.sampled_from(["2.10", "2.9", "2.0", "2.0-beta", "7"])),
)
LEAVES = st.one_of(
    st.builds(Leaf, st.sampled_from(["has", "missing"]), NAMES),
    st.builds(Leaf, st.just("starts"), NAMES, st.tuples(st.tuples(st.just("text"), TEXTS))),
    st.builds(Leaf, st.just("in"), NAMES, st.lists(LITERALS, min_size=1, max_size=4).map(tuple)),
    st.builds(Leaf, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), NAMES, st.tuples(LITERALS)),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(st.just("!"), st.tuples(inner)),
        st.tuples(st.sampled_from(["&&", "||"]), st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=12,
)
ATTRS = st.dictionaries(NAMES, TEXTS, max_size=4)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def literal(value: tuple[str, str]) -> str:
    kind, text = value
    return text if kind == "number" else f"version({quoted(text)})" if kind == "version" else quoted(text)


def written(tree: Tree) -> str:
    """The expression, with parentheses wherever a tree has a tree."""
    if isinstance(tree, Leaf):
        name = tree.name if tree.name.replace(".", "").isalnum() else f"attr({quoted(tree.name)})"
        if tree.word in ("has", "missing"):
            return f"{tree.word}({name})"
        if tree.word == "starts":
            return f"{name}.startsWith({literal(tree.values[0])})"
        if tree.word == "in":
            return f"{name} in [{', '.join(map(literal, tree.values))}]"
        return f"{name} {tree.word} {literal(tree.values[0])}"
    word, parts = tree
    if word == "!":
        return f"!({written(parts[0])})"
    return f" {word} ".join(f"({written(part)})" for part in parts)


def key(kind: str, text: str) -> Any:
    if kind == "text":
        return text
    if kind == "version":
        return version(text)
    return Decimal(text) if text.lstrip("-").replace(".", "", 1).isdigit() else None


def model(tree: Tree, attrs: dict[str, str]) -> bool:
    """What the expression means, said as plainly as can be."""
    if not isinstance(tree, Leaf):
        word, parts = tree
        found = [model(part, attrs) for part in parts]
        return not found[0] if word == "!" else all(found) if word == "&&" else any(found)
    if tree.word in ("has", "missing"):
        return (tree.name in attrs) == (tree.word == "has")
    if tree.name not in attrs:
        return False
    value = attrs[tree.name]
    if tree.word == "starts":
        return value.startswith(tree.values[0][1])
    pairs = [(key(kind, value), key(kind, text)) for kind, text in tree.values]
    pairs = [(mine, theirs) for mine, theirs in pairs if mine is not None]
    if tree.word == "in":
        return any(mine == theirs for mine, theirs in pairs)
    return any(eval(f"mine {tree.word} theirs", {"mine": mine, "theirs": theirs}) for mine, theirs in pairs)


@given(TREES, st.lists(ATTRS, min_size=1, max_size=5))
@settings(max_examples=200)
def test_given_any_expression_when_compiled_then_it_says_what_the_model_says(tree, clients):
    segment = segments.compile(written(tree))
    for attrs in clients:
        assert segment.matches(attrs) is model(tree, attrs)


WORDS = st.one_of(
    st.sampled_from(["a", "b.c", "in", "has", "missing", "attr", "version", ".startsWith", "'x'", '"2.0"', "7", "-1.5"]),
    st.sampled_from(["==", "!=", "<", "&&", "||", "!", "(", ")", "[", "]", ",", " ", "\\", "'", "\ud800", "\n", "=", "|"]),
)


@given(st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=60).map(" ".join), st.lists(WORDS, max_size=60).map("".join)))
@settings(max_examples=400)
def test_given_any_text_when_compiled_then_it_is_a_segment_or_says_where_it_is_bad(text):
    segment = None
    refused = None
    try:
        segment = segments.compile(text)
    except BadSegment as error:
        refused = error
    if segment is None:
        assert refused is not None
        assert 0 <= refused.position <= len(text)
        assert refused.reason
        return
    assert segment.names
    assert segment.matches({}) in (True, False)
    assert segment.matches(dict.fromkeys(segment.names, "2.0")) in (True, False)
