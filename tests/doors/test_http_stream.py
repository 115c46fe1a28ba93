"""`/v1/embed/stream`: how far one picture or text is, then its vector; and callers who leave while they wait."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive

from api.core import Core
from api.http.app import create_app
from api.http.presence import Present, Rounds
from modelmora.domain.inference import Image, Text
from modelmora.domain.progress import Step
from modelmora.errors import ModelLoading
from tests.doors.conftest import MAX_BODY
from tests.doors.conversation import END, FORM, Conversation, file_part
from tests.doors.test_http_embed import TORN
from tests.fakes import STAGES, World, until, vector_of

PATH = "/v1/embed/stream"
JSON = {"content-type": "application/json"}
STEPS = (Step("preprocessing", 1, 1), Step("loading", 1024, 2048), Step("inference", 3, 12))


@pytest.fixture
def app(core: Core) -> ASGIApp:
    return create_app(core, max_body_bytes=MAX_BODY)


async def ask(http: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await http.post(PATH, json=body)


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_stages_and_percentages_come_before_the_vector(world: World, app: ASGIApp) -> None:
    world.embedder.hold = asyncio.Event()
    talk = Conversation(app, PATH, headers=JSON)
    talk.send(b'{"text": "a", "model": "vit@1.0.0"}', more=False)
    await talk.lines_come(1)
    for number, step in enumerate(STEPS):
        assert world.embedder.watch is not None
        world.embedder.watch(0, step)
        await talk.lines_come(number + 2)

    world.embedder.hold.set()

    lines = await talk.end()
    assert re.fullmatch(STAGES, lines[-1].pop("server_timing"))
    assert lines == [
        {"stage": "queued", "percent": 0.0, "done": 0, "total": 0},
        {"stage": "preprocessing", "percent": 10.0, "done": 1, "total": 1},
        {"stage": "loading", "percent": 35.0, "done": 1024, "total": 2048},
        {"stage": "inference", "percent": 70.0, "done": 3, "total": 12},
        {
            "stage": "done",
            "percent": 100.0,
            "model": "vit",
            "version": "1.0.0",
            "dimension": 4,
            "embedding": vector_of(b"a"),
        },
    ]


async def test_a_picture_comes_as_a_form_or_as_the_body(world: World, http: httpx.AsyncClient) -> None:
    form = await http.post(
        PATH, files={"files": ("a.png", b"raw")}, data={"model": '"vit"', "encoding_format": "base64"}
    )
    headers = {"content-type": "image/png"}
    body = await http.post(f"{PATH}?model=vit&encoding_format=base64", content=b"raw", headers=headers)

    for answer in (form, body):
        last = lines(answer)[-1]
        assert np.frombuffer(base64.b64decode(last["embedding"]), "<f4").tolist() == vector_of(b"raw")
        assert last["version"] == "2.0.0-rc.1"
    assert [asked.items for asked in world.embedder.asked] == [(Image(b"raw"),)] * 2


async def test_truncation_and_priority_travel_along(world: World, http: httpx.AsyncClient) -> None:
    await ask(http, text="a", truncate=True)

    asked = world.embedder.asked[0]
    assert (asked.items, asked.call.truncate, asked.call.priority) == ((Text("a"),), True, "interactive")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"text": "a", "model": "gone"}, 404, "model_not_found"),
        ({"text": 7}, 422, "validation"),
        ({"texts": ["a"]}, 422, "validation"),
        ({"text": "a", "encoding_format": "hex"}, 422, "validation"),
        ({"text": "x" * 101}, 413, "limit_exceeded"),
        ({"text": " "}, 422, "validation"),
    ],
)
async def test_what_cannot_be_begun_is_a_problem(
    body: dict[str, Any], status: int, code: str, world: World, http: httpx.AsyncClient
) -> None:
    answer = await ask(http, **body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert world.embedder.asked == []


async def test_pictures_that_cannot_be_begun_are_problems(http: httpx.AsyncClient) -> None:
    two = await http.post(PATH, files=[("files", ("a.png", b"a")), ("files", ("b.png", b"b"))])
    large = await http.post(PATH, files={"files": ("a.png", b"x" * 4097)})
    other = await http.post(PATH, content=b"x", headers={"content-type": "text/html"})

    assert [answer.status_code for answer in (two, large, other)] == [422, 413, 415]
    assert "/v1/embed/batch" in two.json()["detail"]


async def test_a_failure_on_the_way_is_the_last_line(world: World, app: ASGIApp) -> None:
    world.embedder.hold = asyncio.Event()
    world.embedder.fails = {b"torn": TORN, b"new": ModelLoading("soon")}
    for text, code in (("torn", "invalid_input"), ("new", "model_loading")):
        world.embedder.hold.clear()
        talk = Conversation(app, PATH, headers=JSON)
        talk.send(json.dumps({"text": text}).encode(), more=False)
        await talk.lines_come(1)

        world.embedder.hold.set()

        assert (await talk.end())[-1]["error"]["code"] == code


async def test_one_who_leaves_mid_way_frees_the_work(world: World, app: ASGIApp) -> None:
    world.embedder.hold = asyncio.Event()
    talk = Conversation(app, PATH, headers=JSON)
    talk.send(b'{"text": "a"}', more=False)
    await talk.lines_come(1)

    talk.leave()

    await until(world.embedder.cancelled.is_set)
    await talk.end()
    assert not talk.over
    assert talk.scope["state"]["code"] == "cancelled"


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/v1/embed/text", "application/json", b'{"texts": ["a", "b"]}'),
        ("/v1/embed/image", FORM, file_part(b"a") + END),
        ("/v1/embed/image", "image/png", b"a"),
        ("/v1/embeddings", "application/json", b'{"input": "a"}'),
    ],
)
async def test_one_who_leaves_while_a_plain_answer_is_made_frees_the_work(
    path: str, kind: str, body: bytes, world: World, app: ASGIApp
) -> None:
    world.embedder.hold = asyncio.Event()
    talk = Conversation(app, path, headers={"content-type": kind})
    talk.send(body, more=False)
    await until(world.embedder.entered.is_set)

    talk.leave()

    await until(world.embedder.cancelled.is_set)
    await talk.end()
    assert talk.status is None
    assert talk.scope["state"]["code"] == "cancelled"


async def test_one_who_leaves_while_sending_frees_nothing_because_nothing_is_held(world: World, app: ASGIApp) -> None:
    talk = Conversation(app, "/v1/embed/text", headers=JSON)
    talk.send(b'{"texts": ["a"')

    talk.leave()

    await talk.end()
    assert talk.status is None
    assert world.embedder.asked == []


async def test_work_that_is_cancelled_by_somebody_else_stays_cancelled() -> None:
    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def work() -> None:
        async with Present(never, Rounds()):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_error_of_the_work_is_the_error_also_when_the_caller_left() -> None:
    left = asyncio.Event()

    async def gone() -> Message:
        left.set()
        return {"type": "http.disconnect"}

    async def work() -> None:
        async with Present(gone, Rounds()):
            try:
                await asyncio.Event().wait()
            finally:
                raise LookupError

    with pytest.raises(LookupError):
        await work()
    assert left.is_set()
    await asyncio.sleep(0)  # no cancellation is left over


async def test_quick_work_is_not_watched_over() -> None:
    asked: list[str] = []
    looked = asyncio.Event()

    def caller(name: str) -> Receive:
        async def receive() -> Message:
            asked.append(name)
            looked.set()
            await asyncio.Event().wait()
            raise AssertionError

        return receive

    rounds = Rounds()
    async with Present(caller("quick"), rounds):
        await asyncio.sleep(0)
    async with Present(caller("slow"), rounds):
        await asyncio.wait_for(looked.wait(), 10)

    assert asked == ["slow"]


async def test_a_caller_who_is_gone_at_once_is_noticed_after_all() -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(ClientDisconnect):
        async with Present(gone, Rounds()):
            await asyncio.Event().wait()
