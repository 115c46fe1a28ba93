"""`POST /api/v1/models/{ref}/verify` and `/tune`: a line a step, the last one the report or the error."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from starlette.types import Message

from api.core import Core
from api.http.app import create_app
from modelmora.domain.models import ModelSpec
from modelmora.errors import CapabilityMissing, DependencyUnavailable, ModelLoadFailed, OutOfMemory
from modelmora.ports import Examination
from tests.doors.conftest import MAX_BODY
from tests.doors.conversation import Conversation
from tests.fakes import CLIP, VIT, FakeHost, World, until

BASE = "/api/v1/models"
STEPS: list[Mapping[str, Any]] = [
    {"stage": "loading", "done": 0, "total": 2},
    {"stage": "measuring", "done": 2, "total": 2},
]
REPORT = {"stage": "report", "precision": "fp32", "passes": True, "auto": {"engine": "torch", "precision": "bf16"}}


@pytest.mark.parametrize("what", ["verify", "tune"])
async def test_every_step_is_a_line_and_the_report_the_last(what: str, world: World, http: httpx.AsyncClient) -> None:
    world.host.findings = [*STEPS, REPORT]

    answer = await http.post(f"{BASE}/clip/{what}")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert [json.loads(line) for line in answer.text.splitlines()] == [*STEPS, REPORT]
    assert world.host.changes == [(what, CLIP.key)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CapabilityMissing("one precision only"), 422),
        (OutOfMemory("no room for a copy"), 507),
        (DependencyUnavailable("no runner"), 503),
    ],
)
async def test_what_fails_before_the_first_line_has_its_own_status(
    error: Exception, status: int, world: World, http: httpx.AsyncClient
) -> None:
    world.host.troubles[VIT.key] = error

    assert (await http.post(f"{BASE}/vit/verify")).status_code == status


async def test_what_fails_on_the_way_is_the_last_line(world: World, http: httpx.AsyncClient) -> None:
    world.host.findings, world.host.troubles[VIT.key] = STEPS, OutOfMemory("no room for a copy")

    answer = await http.post(f"{BASE}/vit/verify")

    assert answer.status_code == 200
    assert json.loads(answer.text.splitlines()[-1]) == {
        "error": {"code": "out_of_memory", "detail": "no room for a copy"}
    }


async def test_an_unknown_model_and_one_without_files_are_refused(world: World, http: httpx.AsyncClient) -> None:
    world.artifacts.missing = {VIT.key: ModelLoadFailed("pull it first")}

    assert (await http.post(f"{BASE}/nothing/verify")).status_code == 404
    assert (await http.post(f"{BASE}/vit/verify")).status_code == 503
    assert world.host.changes == []


async def test_an_examination_without_a_report_is_a_defect(http: httpx.AsyncClient) -> None:
    assert (await http.post(f"{BASE}/clip/verify")).status_code == 500


async def test_the_deadline_is_the_callers_or_the_longest_there_is(world: World, http: httpx.AsyncClient) -> None:
    world.host.findings = [REPORT]

    await http.post(f"{BASE}/clip/verify", headers={"x-modelmora-timeout-ms": "5000"})
    await http.post(f"{BASE}/clip/verify")

    given, longest = (deadline - time.monotonic() for deadline in world.host.deadlines)
    assert 0 < given <= 5
    assert 50 < longest <= 60


async def test_a_caller_who_leaves_ends_the_examination(world: World, core: Core) -> None:
    world.host.findings, world.host.hold = [*STEPS, REPORT], asyncio.Event()
    app = create_app(core, max_body_bytes=MAX_BODY)
    left = asyncio.Event()

    async def receive() -> Message:
        if not sent_request:
            sent_request.append(True)
            return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            left.set()

    sent_request: list[bool] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": f"{BASE}/clip/verify",
        "raw_path": f"{BASE}/clip/verify".encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"modelmora.test")],
        "client": ("127.0.0.1", 1),
        "server": ("modelmora.test", 80),
        "state": {},
    }
    serving = asyncio.create_task(app(scope, receive, send))

    await asyncio.wait_for(world.host.left.wait(), 10)
    await asyncio.gather(serving, return_exceptions=True)
    assert not world.host.hold.is_set()


class Silent(FakeHost):
    """Takes an examination and says nothing."""

    async def examine(
        self, model: ModelSpec, what: Examination, *, deadline: float
    ) -> AsyncIterator[Mapping[str, Any]]:
        self.changes.append((what, model.key))
        try:
            await asyncio.Event().wait()
            yield {}
        finally:
            self.left.set()


async def test_a_caller_who_leaves_before_the_first_step_ends_the_examination_too() -> None:
    world = World(host=Silent())
    talk = Conversation(create_app(Core(world.application()), max_body_bytes=MAX_BODY), f"{BASE}/clip/verify")
    talk.send(b"", more=False)
    await until(lambda: bool(world.host.changes))

    talk.leave()

    await until(world.host.left.is_set)
    await talk.end()
    assert talk.status is None
    assert talk.scope["state"]["code"] == "cancelled"


@pytest.mark.parametrize(
    ("trouble", "code"), [(OutOfMemory("no room for a copy"), "out_of_memory"), (RuntimeError("secret"), "internal")]
)
async def test_trouble_on_the_way_is_the_last_line_and_the_code_in_the_log(
    trouble: Exception, code: str, world: World, core: Core
) -> None:
    world.host.findings, world.host.troubles[VIT.key] = STEPS, trouble
    talk = Conversation(create_app(core, max_body_bytes=MAX_BODY), f"{BASE}/vit/tune")
    talk.send(b"", more=False)

    *steps, last = await talk.end()

    assert steps == STEPS
    assert (last["error"]["code"], talk.status, talk.over) == (code, 200, True)
    assert talk.scope["state"]["code"] == code
    assert "secret" not in str(last)
