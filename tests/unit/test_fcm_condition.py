"""FCM's conditions: what they mean as segments, and what is refused, where and why."""

from __future__ import annotations

import itertools

import pytest

from infra import segments
from workers.center.fcm.condition import segment_of


@pytest.mark.parametrize(
    ("condition", "means"),
    [
        ("'a' in topics", lambda a, b, c: a),
        ('"a" in topics', lambda a, b, c: a),
        ("!('a' in topics)", lambda a, b, c: not a),
        ("'a' in topics && 'b' in topics", lambda a, b, c: a and b),
        ("'a' in topics && ('b' in topics || 'c' in topics)", lambda a, b, c: a and (b or c)),
        ("'a' in topics && 'b' in topics || 'c' in topics", lambda a, b, c: (a and b) or c),
        ("'a' in topics || 'b' in topics && 'c' in topics", lambda a, b, c: a or (b and c)),
        ("('a' in topics||'b' in topics)&&!('c' in topics)", lambda a, b, c: (a or b) and not c),
        ("  'a'   in\ttopics  ", lambda a, b, c: a),
    ],
)
def test_given_a_condition_then_the_segment_means_the_same_for_whatever_groups_are_joined(condition, means):
    segment = segments.compile(segment_of(condition))
    for flags in itertools.product((False, True), repeat=3):
        joined = frozenset(name for name, there in zip("abc", flags, strict=True) if there)
        assert segment.matches({}, joined) is means(*flags), joined


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("", "at character 0"),
        ("news", "at character 0: 'topic' in topics"),
        ("'a' in topic", "at character 0"),
        ("'a' in topicsx", "at character 0"),
        ("'a' in topics & 'b' in topics", "at character 14"),
        ("'a' in topics 'b' in topics", "at character 14: it does not go on"),
        ("'a' in topics &&", "at character 16: it does not go on"),
        ("('a' in topics", "at character 14: it does not go on"),
        ("'a' in topics)", "at character 13: it does not go on"),
        ("'A' in topics", "at character 0: group 'A' does not fit"),
        ("'a' in topics || platform == 'ios'", "at character 17"),
        ("'\") || has(x) || group(\"' in topics", "at character 0"),
        (" || ".join(f"'t{n}' in topics" for n in range(6)), "has 6 topics, more than 5"),
        ("!" * 40 + "'a' in topics", "it does not go on"),
    ],
)
def test_given_what_is_no_condition_then_it_says_where_and_why(condition, reason):
    with pytest.raises(ValueError, match=r"at character|topics|does not") as refused:
        segment_of(condition)
    assert reason in str(refused.value)
