"""Any bytes become client ids or bad lines: with the right numbers, however they are cut, and without growing."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import names
from workers.center.campaigns.lines import FORMATS, MAX_LINE, MAX_TOLD, Lines

TYPES = sorted(FORMATS)
NDJSON, CSV, PLAIN = "application/x-ndjson", "text/csv", "text/plain"


def read(media_type: str, *pieces: bytes) -> tuple[list[str], list[tuple[int, str]], int]:
    lines = Lines(media_type)
    found = [client for piece in pieces for client in lines.feed(piece)]
    found += lines.end()
    return found, [tuple(each) for each in lines.bad], lines.bad_count


@pytest.mark.parametrize(
    ("media_type", "data", "ids"),
    [
        (PLAIN, b"a\nb\r\n\n  c \nd", ["a", "b", "c", "d"]),
        (PLAIN, b"\xef\xbb\xbfa\nb\n", ["a", "b"]),
        (PLAIN, b"", []),
        (NDJSON, b'"a"\n{"client": "b", "name": {"x": [1]}}\n\n "c" \n', ["a", "b", "c"]),
        (CSV, b"client,name\na,Ann\nb\n", ["a", "b"]),
        (CSV, b'\xef\xbb\xbf"Client"\n', []),
        (CSV, b'"a",1\n"b" , "x, ""y"""\nclient,is an id beyond the first line\n', ["a", "b", "client"]),
    ],
)
def test_given_a_list_in_its_form_when_read_then_these_are_its_ids(media_type: str, data: bytes, ids: list[str]) -> None:
    assert read(media_type, data)[0] == ids


@pytest.mark.parametrize(
    ("media_type", "line", "reason"),
    [
        (PLAIN, b"no spaces", "does not fit"),
        (PLAIN, b"\xff", "is not UTF-8"),
        (PLAIN, b"x" * 129, "does not fit"),
        (PLAIN, b"x" * (MAX_LINE + 1), "has more than 4096 bytes"),
        (PLAIN, b"x" * 100_000, "has more than 4096 bytes"),
        (NDJSON, b"a", "neither a JSON string nor an object"),
        (NDJSON, b'""', "does not fit"),
        (NDJSON, b'{"id": "a"}', "neither a JSON string nor an object"),
        (NDJSON, b'{"client": 5}', "neither a JSON string nor an object"),
        (NDJSON, b'"\\ud800"', ""),
        (NDJSON, b"[" * 4_000, "neither a JSON string nor an object"),
        (NDJSON, b'{"x": ' + b"[" * 4_000, "neither a JSON string nor an object"),
        (CSV, b",a", "does not fit"),
        (CSV, b"a;1", "does not fit"),
        (CSV, b'"a,b",1', "does not fit"),
    ],
)
def test_given_a_bad_line_between_good_ones_then_its_number_and_reason_are_told(media_type, line, reason) -> None:
    good = b'"a"\n' if media_type == NDJSON else b"a\n"
    found, bad, count = read(media_type, good + good + line + b"\n" + good)
    assert (found, [number for number, _ in bad], count) == (["a", "a", "a"], [3], 1)
    assert reason in bad[0][1]
    assert len(bad[0][1]) < 200


@pytest.mark.parametrize("filling", [b"", b"y" * 5_000])
def test_given_a_quoted_field_over_several_lines_then_nothing_in_it_is_taken_for_an_id(filling: bytes) -> None:
    found, bad, _ = read(CSV, b'a,"' + filling + b'hello\nphone-9\nend"\nb\n')
    assert (found, [number for number, _ in bad]) == (["b"], [1, 2, 3])


def test_given_more_bad_lines_than_are_told_then_all_are_counted() -> None:
    found, bad, count = read(PLAIN, b"a b\n" * 1_000)
    assert (found, len(bad), count) == ([], MAX_TOLD, 1_000)


@given(st.sampled_from(TYPES), st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_given_any_bytes_however_they_are_cut_then_they_are_the_same_ids_and_bad_lines(media_type, data, cuts) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    whole = read(media_type, data)
    assert read(media_type, *(data[a:b] for a, b in pairwise(edges))) == whole
    for client in whole[0]:
        names.client(client)
    lines = data.split(b"\n")
    assert len(whole[0]) + whole[2] <= len(lines)
    assert all(1 <= number <= len(lines) for number, _ in whole[1])


IDS = st.from_regex(r"[A-Za-z0-9._:@=+~-]{1,128}", fullmatch=True).filter(lambda text: text.lower() != "client")
BAD = st.sampled_from(["a b", "é", "x" * 129, "{", "a\tb", "*"])


@given(st.sampled_from(TYPES), st.lists(st.one_of(IDS.map(lambda text: (True, text)), BAD.map(lambda text: (False, text)))))
def test_given_good_and_bad_lines_then_the_good_are_ids_in_order_and_the_bad_are_told_by_number(media_type, lines) -> None:
    data = b"\n".join((json.dumps(text) if media_type == NDJSON else text).encode() for _, text in lines)
    found, bad, count = read(media_type, data)
    assert found == [text for good, text in lines if good]
    assert [number for number, _ in bad] == [at for at, (good, _) in enumerate(lines, 1) if not good][:MAX_TOLD]
    assert count == sum(not good for good, _ in lines)


def test_given_an_endless_line_then_no_more_of_it_is_kept_than_a_line_may_have() -> None:
    lines = Lines(PLAIN)
    for _ in range(1_000):
        assert lines.feed(b"x" * 65_536) == []
        assert sys.getsizeof(lines._line) <= MAX_LINE + 100
    assert lines.end() == []
    assert lines.bad_count == 1
