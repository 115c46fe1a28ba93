"""What may stand in an entry: what no database or wire can carry is refused by its field."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from modelmora.domain.registry.entries import Running
from modelmora.domain.registry.pages import AuditQuery, ModelQuery, VersionQuery
from modelmora.domain.registry.provenance import Metric, PerformanceBaseline, TrainingMetadata
from modelmora.domain.registry.texts import MOST_CHARACTERS, MOST_VALUES, check_json, check_text, readable
from modelmora.errors import ValidationFailed
from tests.registered import a_model, a_version

NUL, HALF = "a\0b", "a\ud83db"


@pytest.mark.parametrize("bad", [NUL, HALF, "\udfff", "\0"])
@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda bad: a_model(description=bad), "description"),
        (lambda bad: a_model(owner=bad), "owner"),
        (lambda bad: a_model(tags=("fine", bad)), "tags"),
        (lambda bad: Running(provider=bad), "provider"),
        (lambda bad: Running(provider="onnx", device=bad), "device"),
        (lambda bad: Running(provider="onnx", config={"a": [{"b": bad}]}), "config.a[0].b"),
        (lambda bad: Running(provider="onnx", config={bad: 1}), "config"),
        (lambda bad: TrainingMetadata(dataset=bad), "training.dataset"),
        (lambda bad: TrainingMetadata(parameters={"note": bad}), "training.parameters.note"),
        (lambda bad: Metric(name=bad, value=1.0, dataset="d"), "baseline.metrics.name"),
        (lambda bad: PerformanceBaseline(device=bad), "baseline.device"),
        (lambda bad: replace(a_version(), labels=("wren", bad)), "labels"),
        (lambda bad: replace(a_version(), source=f"file:{bad}", artifact=None), "source"),
        (lambda bad: ModelQuery(prefix=bad), "prefix"),
        (lambda bad: ModelQuery(tag=bad), "tag"),
        (lambda bad: VersionQuery(model=bad), "model"),
        (lambda bad: VersionQuery(provider=bad), "provider"),
        (lambda bad: AuditQuery(subject=bad), "subject"),
    ],
)
def test_a_text_that_cannot_be_kept_is_refused_by_its_field(make: Any, field: str, bad: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        make(bad)
    assert refused.value.field == field
    refused.value.detail.encode()  # what is said of it can be sent


@pytest.mark.parametrize("text", ["", "plain", "ünïcode", "\U0001f426", "tab\tand\nline", "\ufffd"])
def test_every_other_text_is_taken(text: str) -> None:
    check_text(text, field="x")
    check_json({text: text}, field="x")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"lr": math.nan}, "config.lr"),
        ({"lr": [1.0, -math.inf]}, "config.lr[1]"),
        ({"n": 2**64}, "config.n"),
        ({"when": date(2026, 1, 1)}, "config.when"),
        ({"raw": b"x"}, "config.raw"),
        ({"some": {1, 2}}, "config.some"),
        ({"a": {7: "x"}}, "config.a"),
        ({"a": "x" * (MOST_CHARACTERS + 1)}, "config"),
        ({"a": [0] * (MOST_VALUES + 1)}, "config"),
        ({"a": [[]] * (MOST_VALUES + 1)}, "config"),
    ],
)
def test_what_json_has_no_form_for_is_refused_by_its_place(value: dict[Any, Any], field: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        Running(provider="onnx", config=value)
    assert refused.value.field == field


def test_what_is_nested_too_deep_is_refused_before_anything_breaks_on_it() -> None:
    value: dict[str, Any] = {}
    for _ in range(5_000):
        value = {"a": value}
    with pytest.raises(ValidationFailed, match="too deep"):
        check_json(value, field="config")


def test_the_largest_numbers_are_taken() -> None:
    check_json({"a": 2**64 - 1, "b": -(2**63), "c": 1.7e308, "d": True, "e": None}, field="config")


def test_what_somebody_elses_program_said_is_made_fit_to_be_kept() -> None:
    assert readable("a\0b\ud83dc", most=4) == "a\ufffdb\ufffd"
    check_text(readable(NUL + HALF, most=100), field="failure")


@pytest.mark.parametrize("after", [-1, 2**63])
def test_no_entry_has_such_a_number(after: int) -> None:
    with pytest.raises(ValidationFailed) as refused:
        AuditQuery(after=after)
    assert refused.value.field == "after"
