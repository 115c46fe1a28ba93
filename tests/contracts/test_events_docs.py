"""What docs/events.md shows is so: its events, its programs against a real broker, the tests that it names."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import secrets
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from adapters.events.kafka import Cluster
from adapters.events.kafka_publisher import KafkaPublisher
from adapters.events.kafka_subscription import KafkaSubscription
from modelmora.domain.events.asyncapi import EVENTS
from modelmora.domain.events.codec import read_event, schema_of
from modelmora.domain.events.data import read_data
from modelmora.domain.events.images import picture_of
from modelmora.domain.events.types import TYPES
from modelmora.ports import Kept
from tests.examples import ROOT, examples
from tests.support import end, start, wait_until

PAGE = "docs/events.md"
TEXT = (ROOT / PAGE).read_text()
SHOWN: list[dict[str, Any]] = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", TEXT, re.S | re.M)]
ANNOUNCE, FOLLOW = (example.code for example in examples(PAGE))
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))

pytestmark = pytest.mark.timeout(90)


def of_type(name: str) -> dict[str, Any]:
    return next(event for event in SHOWN if event["type"] == name)


def test_every_type_is_shown() -> None:
    assert [event["type"] for event in SHOWN] == [TYPES.written(told.name) for told in EVENTS]
    assert all(f"**{told.title}**" in TEXT for told in EVENTS)


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown["type"])
def test_what_is_shown_is_what_is_written(shown: dict[str, Any]) -> None:
    event = read_event(json.dumps(shown).encode(), topic="t")
    name, data = TYPES.read(event.type, event.data)
    (told,) = [each for each in EVENTS if each.name == name]
    read = read_data(told.data, data)
    assert set(data) == set(read.model_dump(exclude_none=True))
    assert shown["dataschema"] == schema_of(event.type)


@cache
def functions(path: Path) -> frozenset[str]:
    defs = ast.walk(ast.parse(path.read_text()))
    return frozenset(node.name for node in defs if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_promise_is_held_by_a_test_that_is_there(path: str, name: str) -> None:
    assert name in functions(ROOT / path)


def test_promises_name_their_tests() -> None:
    assert len(NAMED) > 15


async def test_a_picture_that_is_announced_as_the_page_says_can_be_read(kafka: str) -> None:
    topic = f"t-{secrets.token_hex(6)}"
    code = ANNOUNCE.replace("localhost:9092", kafka).replace("modelmora.images", topic)
    assert (kafka in code, topic in code) == (True, True)
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code], check=True, timeout=60)
    member = KafkaSubscription(Cluster(kafka), [topic], group=topic)
    try:
        async with asyncio.timeout(60):
            while not (found := await member.receive(limit=1, timeout_s=0.2)):
                pass
    finally:
        await member.close()
    (one,) = found
    picture = picture_of(read_event(one.value, key=one.key, headers=one.headers, topic=one.topic))
    assert (picture.id, picture.object, one.key) == (
        "camera-7-000001",
        "s3://incoming/2026/11/23/000001.jpg",
        b"camera-7-000001",
    )
    assert (picture.collection, picture.facts.tags, picture.facts.metadata) == ("birds", ("gull",), {"camera": 7})


def test_a_line_for_the_console_announces_a_picture() -> None:
    (line,) = re.findall(r"^printf '%s\\t%s\\n' (\S+) '(.*)' \|$", TEXT, re.M)
    assert picture_of(read_event(line[1].encode(), key=line[0].encode(), topic="t")).id == line[0]


async def test_who_follows_as_the_page_says_learns_what_became_of_a_picture(kafka: str, tmp_path: Path) -> None:
    topic = f"t-{secrets.token_hex(6)}"
    publisher = KafkaPublisher(Cluster(kafka), topics=[topic], partitions=1)
    shown = of_type("com.modelmora.embedding.generated.v1")
    content = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    await publisher.publish([Kept(number=1, topic=topic, key=b"k", value=json.dumps(shown).encode(), headers=content)])
    await publisher.close()
    code = FOLLOW.replace("localhost:9092", kafka).replace('"modelmora.images"', f'"{topic}"')
    log = tmp_path / "said"
    running = start([sys.executable, "-c", code.replace('group_id="camera"', f'group_id="{topic}"')], log=log, cwd=ROOT)
    try:
        wanted = f"{shown['data']['image_id']} can be found by clip-vit-b-32"
        await asyncio.to_thread(wait_until, lambda: wanted in log.read_text(), within_s=60, what="the follower")
    finally:
        end(running)
