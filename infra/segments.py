"""Segments: who is meant, as an expression over a client's attributes (docs/protocol.md; why it is our own: ADR 10).

    platform == "ios" && app >= version("2.10") && (lang in ["de", "fr"] || !has(beta))

A comparison begins with an attribute; one that the client has not makes it false, never an error, and so does a value that is no
number, or no version, where one is compared with. So `plan != "gold"` is about clients that have a plan; `!(plan == "gold")`
is true for the others, too. `group("news")` is about who has joined that group. Pure: text in, a function over a dict and a
set of groups out. Work is bounded by the text: no loops, no patterns, no
recursion deeper than `MAX_DEPTH`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, NamedTuple, NoReturn

from infra.versions import Version, version
from schemas import names
from schemas.broadcasts import MAX_SEGMENT

MAX_DEPTH: Final = 32
"""Parentheses and `!` in one another, at most."""
MAX_LIST: Final = 256
"""Values of an `in [..]`, at most."""
MAX_DIGITS: Final = 64
"""Characters of a number; what is longer is none."""

Attrs = Mapping[str, str]
Groups = Set[str]
Predicate = Callable[[Attrs, Groups], bool]

NO_GROUPS: Final[Groups] = frozenset()


class BadSegment(ValueError):
    """An expression that means nothing. `position`: the character at which that shows, from 0; `reason`: why."""

    def __init__(self, position: int, reason: str) -> None:
        super().__init__(f"segment, at character {position}: {reason}")
        self.position = position
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Segment:
    """A compiled expression. `names` are the attributes and `groups` the groups that it looks at."""

    text: str
    names: frozenset[str]
    groups: frozenset[str]
    predicate: Predicate

    def matches(self, attrs: Attrs, groups: Groups = NO_GROUPS) -> bool:
        """What it says of a client with these attributes, which has joined these groups."""
        return self.predicate(attrs, groups)


def compile(text: str) -> Segment:  # noqa: A001 - agreed name
    """Compile an expression; raises BadSegment if it does not parse, names no attribute, or is beyond a bound."""
    if len(text) > MAX_SEGMENT:
        raise BadSegment(MAX_SEGMENT, f"more than {MAX_SEGMENT} characters")
    parser = _Parser(text)
    predicate = parser.whole()
    return Segment(text, frozenset(parser.names), frozenset(parser.groups), predicate)


# --- words -------------------------------------------------------------------------------------------------------------


class _Token(NamedTuple):
    """`kind`: name, text, number, mark or end. `text` is what is meant, `at` where it stands."""

    kind: str
    text: str
    at: int


_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*(?:\.(?!startsWith\b)[A-Za-z_][A-Za-z0-9_]*)*)
    |(?P<number>-?[0-9]+(?:\.[0-9]+)?)
    |(?P<mark>&&|\|\||==|!=|<=|>=|[<>!()\[\],]|\.startsWith\b)
    |(?P<text>"(?:[^"\\]|\\["'\\])*"|'(?:[^'\\]|\\["'\\])*'))""",
    re.VERBOSE,
)
_ESCAPE: Final = re.compile(r"""\\(["'\\])""")
_NUMBER: Final = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")


def _tokens(text: str) -> list[_Token]:
    """All words of the text, and the end; raises BadSegment at what is none."""
    found: list[_Token] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at, end)
        if match is None:
            _no_token(text, at)
        kind = match.lastgroup or ""
        word = match[kind]
        found.append(_Token(kind, _ESCAPE.sub(r"\1", word[1:-1]) if kind == "text" else word, match.start(kind)))
        at = match.end()
    found.append(_Token("end", "", end))
    return found


def _no_token(text: str, at: int) -> NoReturn:
    at += len(text[at:]) - len(text[at:].lstrip())
    if text[at] in "\"'":
        raise BadSegment(at, "a text that does not end, or with another escape than \\\\, \\\" and \\'")
    if text[at] in "=&|":
        raise BadSegment(at, f"{text[at]} alone: write {text[at] * 2}")
    raise BadSegment(at, f"{text[at]!a} belongs to no word")


# --- grammar -----------------------------------------------------------------------------------------------------------

_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class _Literal:
    """A value to compare with: `key` of its kind's order, and how an attribute's text is read as that kind (None: as it is)."""

    key: str | Decimal | Version
    read: Callable[[str], Decimal | Version | None] | None


def _number(text: str) -> Decimal | None:
    return Decimal(text) if len(text) <= MAX_DIGITS and _NUMBER.fullmatch(text) else None


class _Parser:
    """Recursive descent, one method a rule:

    either := both ("||" both)*          comparison := attribute op literal
    both := term ("&&" term)*                        | attribute "in" "[" literal ("," literal)* "]"
    term := "!" term | "(" either ")"                | attribute ".startsWith" "(" text ")"
            | comparison                             | ("has" | "missing") "(" attribute ")"
    attribute := name | "attr" "(" text ")"
    literal := text | number | "version" "(" text ")"
    """

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._at = 0
        self._depth = 0
        self.names: set[str] = set()
        self.groups: set[str] = set()

    def whole(self) -> Predicate:
        """The whole text as one expression."""
        predicate = self._either()
        if self._next.kind != "end":
            self._fail(f"{self._next.text!a} is one too many: && or || belongs before it, or it closes nothing")
        return predicate

    # --- rules

    def _either(self) -> Predicate:
        parts = [self._both()]
        while self._takes("||"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else _any(tuple(parts))

    def _both(self) -> Predicate:
        parts = [self._term()]
        while self._takes("&&"):
            parts.append(self._term())
        return parts[0] if len(parts) == 1 else _all(tuple(parts))

    def _term(self) -> Predicate:
        if self._takes("!"):
            return _not(self._deeper(self._term))
        if self._takes("("):
            predicate = self._deeper(self._either)
            self._needs(")")
            return predicate
        return self._comparison()

    def _deeper(self, rule: Callable[[], Predicate]) -> Predicate:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._fail(f"more than {MAX_DEPTH} parentheses and ! in one another")
        predicate = rule()
        self._depth -= 1
        return predicate

    def _comparison(self) -> Predicate:
        for word, wanted in (("has", True), ("missing", False)):
            if self._calls(word):
                name = self._attribute()
                self._needs(")")
                return _has(name, wanted)
        if self._calls("group"):
            return self._group()
        name = self._attribute()
        if self._takes(".startsWith"):
            return self._starts_with(name)
        token = self._take()
        if (token.kind, token.text) == ("name", "in"):
            return self._one_of(name)
        if token.kind != "mark" or token.text not in _COMPARE:
            self._fail(f"after attribute {name!a} belongs one of == != < <= > >= in .startsWith", token)
        return _compare(name, token.text, self._literal())

    def _starts_with(self, name: str) -> Predicate:
        self._needs("(")
        start = self._text()
        self._needs(")")
        return _starts_with(name, start)

    def _one_of(self, name: str) -> Predicate:
        self._needs("[")
        literals = [self._literal()]
        while self._takes(","):
            literals.append(self._literal())
            if len(literals) > MAX_LIST:
                self._fail(f"more than {MAX_LIST} values in a list")
        self._needs("]")
        return _one_of(name, literals)

    def _group(self) -> Predicate:
        token = self._next
        try:
            name = names.group(self._text())
        except names.BadName as error:
            self._fail(str(error), token)
        self._needs(")")
        self.groups.add(name)
        return _joined(name)

    # --- parts

    def _attribute(self) -> str:
        if self._calls("attr"):
            name = self._text()
            self._needs(")")
        else:
            token = self._take()
            if token.kind in ("text", "number"):
                self._fail('names no attribute: a comparison begins with one, as in platform == "ios"', token)
            if token.kind == "end":
                self._fail("it ends where an attribute belongs", token)
            if token.kind != "name" or token.text == "in":
                self._fail(f"{token.text!a} where an attribute belongs", token)
            if self._next[:2] == ("mark", "("):
                self._fail(f"no function {token.text!a}: there are has, missing, group, attr, version and .startsWith", token)
            name = token.text
        self.names.add(name)
        return name

    def _literal(self) -> _Literal:
        if self._calls("version"):
            token = self._next
            key = version(self._text())
            if key is None:
                self._fail(f"{token.text!a} is no version", token)
            self._needs(")")
            return _Literal(key, version)
        token = self._take()
        if token.kind == "number":
            number = _number(token.text)
            if number is None:
                self._fail(f"a number of more than {MAX_DIGITS} characters", token)
            return _Literal(number, _number)
        if token.kind != "text":
            self._fail('a text, a number or version("…") belongs here', token)
        return _Literal(token.text, None)

    def _text(self) -> str:
        token = self._take()
        if token.kind != "text":
            self._fail("a text in quotes belongs here", token)
        return token.text

    # --- tokens

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        if token.kind != "end":
            self._at += 1
        return token

    def _takes(self, mark: str) -> bool:
        if self._next.kind != "mark" or self._next.text != mark:
            return False
        self._at += 1
        return True

    def _calls(self, word: str) -> bool:
        """Does a call of this function come next? Without parentheses it is an attribute of that name."""
        token = self._next
        if token.kind != "name" or token.text != word or self._tokens[self._at + 1][:2] != ("mark", "("):
            return False
        self._at += 2
        return True

    def _needs(self, mark: str) -> None:
        if not self._takes(mark):
            self._fail(f"{mark} belongs here")

    def _fail(self, reason: str, token: _Token | None = None) -> NoReturn:
        raise BadSegment((token or self._next).at, reason)


# --- what a rule becomes -----------------------------------------------------------------------------------------------


def _any(parts: tuple[Predicate, ...]) -> Predicate:
    def matches(attrs: Attrs, groups: Groups) -> bool:
        for part in parts:  # noqa: SIM110 - a generator costs more than the parts
            if part(attrs, groups):
                return True
        return False

    return matches


def _all(parts: tuple[Predicate, ...]) -> Predicate:
    def matches(attrs: Attrs, groups: Groups) -> bool:
        for part in parts:  # noqa: SIM110 - a generator costs more than the parts
            if not part(attrs, groups):
                return False
        return True

    return matches


def _not(part: Predicate) -> Predicate:
    return lambda attrs, groups: not part(attrs, groups)


def _has(name: str, wanted: bool) -> Predicate:
    return lambda attrs, _: (name in attrs) is wanted


def _joined(name: str) -> Predicate:
    return lambda _, groups: name in groups


def _starts_with(name: str, start: str) -> Predicate:
    def matches(attrs: Attrs, _: Groups) -> bool:
        value = attrs.get(name)
        return value is not None and value.startswith(start)

    return matches


def _compare(name: str, word: str, literal: _Literal) -> Predicate:
    key, read, compare = literal.key, literal.read, _COMPARE[word]

    def matches(attrs: Attrs, _: Groups) -> bool:
        value = attrs.get(name)
        if value is None:
            return False
        mine = value if read is None else read(value)
        return mine is not None and compare(mine, key)

    return matches


def _one_of(name: str, literals: list[_Literal]) -> Predicate:
    """A look-up for each kind of value in the list."""
    kinds = {literal.read for literal in literals}
    sets = tuple((read, frozenset(literal.key for literal in literals if literal.read is read)) for read in kinds)

    def matches(attrs: Attrs, _: Groups) -> bool:
        value = attrs.get(name)
        if value is None:
            return False
        return any((value if read is None else read(value)) in keys for read, keys in sets)

    return matches
