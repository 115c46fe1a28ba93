"""What a search may be narrowed to, how its parts are weighed, and where its pages begin."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.domain.inference import Image, Text, Vector
from modelmora.domain.pictures.cursors import fingerprint, make_cursor, read_cursor
from modelmora.domain.pictures.filters import FIELDS, read_filter
from modelmora.domain.pictures.picture import Facts
from modelmora.domain.pictures.queries import Like, Part, SearchQuery
from modelmora.domain.pictures.search import MOST_OFFSET, Filter, Range
from modelmora.domain.pictures.weights import combined
from modelmora.errors import InputError, LimitExceeded, ValidationFailed

MOMENT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def packed(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def numbers(data: bytes) -> list[float]:
    return [round(float(number), 5) for number in np.frombuffer(data, "<f4")]


def test_no_filter_is_an_empty_one() -> None:
    assert read_filter(None) == Filter()
    assert read_filter({}).empty


def test_a_filter_says_tags_metadata_ids_and_times() -> None:
    asked = {
        "tags": {"any": ["a", "b"], "all": ["c"], "none": ["d"]},
        "metadata": {"kind": "cat", "size": [1, 2], "year": {"gte": 2000, "lt": 2020.5}, "shown": True},
        "ids": ["1", "2", "1"],
        "created_after": "2026-01-31T12:00:00Z",
        "created_before": "2026-01-31T13:00:00+01:00",
    }

    assert read_filter(asked) == Filter(
        any_tags=("a", "b"),
        all_tags=("c",),
        no_tags=("d",),
        metadata={"kind": "cat", "size": (1, 2), "year": Range(gte=2000, lt=2020.5), "shown": True},
        ids=("1", "2"),
        created_after=MOMENT,
        created_before=MOMENT,
    )


def test_tags_in_a_list_are_alternatives() -> None:
    assert read_filter({"tags": ["a", "b"]}) == Filter(any_tags=("a", "b"))


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ([], "filter"),
        ({"tag": ["a"]}, "filter"),
        ({"tags": {"some": ["a"]}}, "filter.tags"),
        ({"tags": "a"}, "filter.tags"),
        ({"tags": []}, "filter.tags"),
        ({"tags": {"none": [7]}}, "filter.tags.none"),
        ({"tags": {"all": [""]}}, "filter.tags.all"),
        ({"metadata": []}, "filter.metadata"),
        ({"metadata": {}}, "filter.metadata"),
        ({"metadata": {"a.b": 1}}, "filter.metadata"),
        ({"metadata": {"a": None}}, "filter.metadata.a"),
        ({"metadata": {"a": []}}, "filter.metadata.a"),
        ({"metadata": {"a": [[1]]}}, "filter.metadata.a"),
        ({"metadata": {"a": {}}}, "filter.metadata.a"),
        ({"metadata": {"a": {"above": 1}}}, "filter.metadata.a"),
        ({"metadata": {"a": {"gt": "1"}}}, "filter.metadata.a.gt"),
        ({"metadata": {"a": {"gt": True}}}, "filter.metadata.a.gt"),
        ({"metadata": {"a": {"lt": float("inf")}}}, "filter.metadata.a.lt"),
        ({"metadata": {"a": "\0"}}, "filter.metadata.a"),
        ({"ids": []}, "filter.ids"),
        ({"ids": [1]}, "filter.ids"),
        ({"ids": ["x" * 65]}, "filter.ids"),
        ({"ids": ["\0"]}, "filter.ids"),
        ({"created_after": "yesterday"}, "filter.created_after"),
        ({"created_after": "2026-01-31T12:00:00"}, "filter.created_after"),
        ({"created_before": 5}, "filter.created_before"),
    ],
)
def test_what_is_no_filter_is_refused_by_its_place(asked: Any, field: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        read_filter(asked)

    assert refused.value.field == field


def test_an_unknown_field_is_named_with_those_there_are() -> None:
    with pytest.raises(ValidationFailed) as refused:
        read_filter({"colour": "red"})

    assert "colour" in refused.value.detail
    assert all(name in (refused.value.expected or "") for name in FIELDS)


@pytest.mark.parametrize("asked", [{"ids": ["x"] * 1001}, {"tags": [str(i) for i in range(65)]}])
def test_more_values_than_an_index_is_asked_for_are_refused(asked: Any) -> None:
    with pytest.raises(LimitExceeded):
        read_filter(asked)


TEXTS = st.text("a1._-:TZ\0é\ud800 ", max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*FIELDS, "other"]), JSON, max_size=3))
def test_whatever_is_asked_is_read_or_refused(asked: dict[str, Any]) -> None:
    refused: InputError | None = None
    try:
        read = read_filter(asked)
    except InputError as error:
        refused = error
    else:
        assert read.empty == all(value is None or value == {} for value in asked.values())
    assert refused is None or (refused.field or "").startswith("filter")


@given(TEXTS, st.booleans() | st.integers() | st.floats() | TEXTS)
def test_metadata_may_be_asked_for_where_a_picture_may_have_it(key: str, value: Any) -> None:
    def holds(check: Any) -> bool:
        try:
            check()
        except InputError:
            return False
        return True

    kept = holds(lambda: Facts.checked(metadata={key: value}))
    assert holds(lambda: read_filter({"metadata": {key: value}})) == kept


def test_weights_lead_towards_and_away() -> None:
    right, up = packed(2, 0), packed(0, 3)

    assert numbers(combined([(right, 1.0)])) == [1, 0]
    assert numbers(combined([(right, 1.0), (up, 1.0)])) == [0.70711, 0.70711]
    assert numbers(combined([(right, 3.0), (up, -4.0)])) == [0.6, -0.8]
    assert numbers(combined([(right, -2.0)])) == [-1, 0]


@pytest.mark.parametrize(
    "parts",
    [
        [(packed(0, 0), 1.0)],
        [(packed(1, 2), 1.0), (packed(2, 4), -1.0)],
        [(packed(1, 2), 0.0)],
        [(packed(float("nan"), 1), 1.0)],
        [(packed(float("inf"), 1), 1.0)],
    ],
)
def test_a_question_of_nothing_is_refused(parts: list[tuple[bytes, float]]) -> None:
    with pytest.raises(ValidationFailed):
        combined(parts)


@given(
    st.lists(
        st.tuples(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), st.floats(-5, 5)), min_size=1, max_size=4
    )
)
def test_a_combined_vector_has_length_one(parts: list[tuple[list[float], float]]) -> None:
    try:
        joined = combined([(packed(*vector), weight) for vector, weight in parts])
    except ValidationFailed:
        return
    assert np.linalg.norm(np.frombuffer(joined, "<f4")) == pytest.approx(1.0, abs=1e-5)


def test_a_cursor_is_good_for_its_question_only() -> None:
    mine, other = fingerprint({"text": "a"}), fingerprint({"text": "b"})
    cursor = make_cursor(40, mine)

    assert read_cursor(cursor, mine) == 40
    with pytest.raises(ValidationFailed) as refused:
        read_cursor(cursor, other)
    assert refused.value.field == "cursor"


def test_pages_end_where_an_index_would_read_too_much() -> None:
    assert make_cursor(MOST_OFFSET, "q") is not None
    assert make_cursor(MOST_OFFSET + 1, "q") is None


def coded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "x", "é", "A" * 300, coded([1]), coded({}), coded(None), coded("[" * 100)),
        *(coded([each, "q"]) for each in (-1, True, 1e9, MOST_OFFSET + 1, [0])),
    ],
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValidationFailed):
        read_cursor(cursor, "q")


@given(TEXTS)
def test_whatever_stands_for_a_cursor_is_read_or_refused(cursor: str) -> None:
    with pytest.raises(ValidationFailed):
        read_cursor(cursor, "q")


PARTS = (Part(content=Text("a")),)


@pytest.mark.parametrize(
    "other",
    [
        {"parts": (Part(content=Text("b")),)},
        {"parts": (Part(content=Text("a"), weight=2.0),)},
        {"parts": (Part(content=Image(b"a")),)},
        {"parts": (Part(content=Like("a")),)},
        {"parts": (Part(content=Vector(packed(1))),)},
        {"filter": Filter(any_tags=("x",))},
        {"filter": Filter(metadata={"x": 1})},
        {"score_threshold": 0.5},
        {"model": "vit"},
        {"collection": "others"},
        {"exact": True},
    ],
)
def test_whatever_changes_the_answer_makes_it_another_question(other: dict[str, Any]) -> None:
    cursor = SearchQuery(parts=PARTS).following(20)

    with pytest.raises(ValidationFailed):
        SearchQuery(**{"parts": PARTS, **other}, cursor=cursor).offset()


def test_the_same_question_may_want_more_of_the_answer() -> None:
    cursor = SearchQuery(parts=PARTS, limit=20).following(20)

    assert SearchQuery(parts=PARTS, limit=100, cursor=cursor).offset() == 20


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"parts": ()}, "queries"),
        ({"parts": PARTS * 17}, "queries"),
        ({"limit": 0}, "limit"),
        ({"limit": 501}, "limit"),
        ({"group_size": 0}, "group_size"),
        ({"group_by": "no key"}, "group_by"),
        ({"group_by": "key", "cursor": "x"}, "cursor"),
        ({"score_threshold": float("nan")}, "score_threshold"),
        ({"collection": "No Name"}, "collection"),
    ],
)
def test_what_is_no_question_is_refused(said: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as refused:
        SearchQuery(**{"parts": PARTS, **said})

    assert refused.value.field == field


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e7, "1", True, None])
def test_what_is_no_weight_is_refused(weight: Any) -> None:
    with pytest.raises(ValidationFailed):
        Part(content=Text("a"), weight=weight)
