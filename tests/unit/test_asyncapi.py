"""The AsyncAPI document: it has every type, its file is what the types say, and our messages are what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from modelmora.domain.events.asyncapi import EVENTS, asyncapi_document
from modelmora.domain.events.codec import to_kept_parts
from modelmora.domain.events.envelope import Event
from modelmora.domain.events.types import TYPES
from tests.unit.test_events import every_event, picture

__all__ = ["picture"]

FILE = Path(__file__).parents[2] / "docs" / "asyncapi.yaml"
DOCUMENT = asyncapi_document()
AGAIN = """docs/asyncapi.yaml is not what the types say; it is made by
python -c "import yaml; from modelmora.domain.events.asyncapi import asyncapi_document; \
print(yaml.safe_dump(asyncapi_document(), sort_keys=False, width=120), end='')" > docs/asyncapi.yaml"""


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def problems(message: dict[str, Any], event: dict[str, Any]) -> list[str]:
    schema = {**message["payload"], "components": DOCUMENT["components"]}
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    return [error.message for error in checker.iter_errors(event)]


def told(event: Event) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its message in the document, and itself as JSON."""
    (title,) = [each.title for each in EVENTS if event.type.startswith(each.name + ".")]
    return DOCUMENT["components"]["messages"][title], json.loads(to_kept_parts(event)[1])


def test_the_file_is_what_the_types_say() -> None:
    assert yaml.safe_load(FILE.read_text()) == DOCUMENT, AGAIN


def test_every_type_is_in_the_document() -> None:
    assert {each.name for each in EVENTS} == set(TYPES.names)
    titles = {message["title"] for message in DOCUMENT["components"]["messages"].values()}
    assert {TYPES.written(name) for name in TYPES.names} <= titles


def test_every_reference_leads_somewhere() -> None:
    found = set(references(DOCUMENT))
    assert len(found) > 20
    for reference in found:
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def test_every_event_of_ours_is_what_the_document_says(picture: Any) -> None:
    for event in every_event(picture):
        message, written = told(event)
        assert problems(message, written) == []


@pytest.mark.parametrize("wrong", [{"type": "x"}, {"specversion": "0.3"}, {"id": ""}, {"data": {"image_id": "a"}}])
def test_the_document_tells_what_is_wrong(picture: Any, wrong: dict[str, Any]) -> None:
    message, written = told(every_event(picture)[0])
    assert problems(message, written | wrong)


def test_topics_are_the_operators() -> None:
    channels = asyncapi_document(images_topic="a", models_topic="b")["channels"]
    assert [channel["address"] for channel in channels.values()] == ["a", "b", "a.dlq"]
