"""The control half of the client over REST."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import pytest

from modelmora.client import Client, Progress, Retry, SyncClient
from modelmora.errors import (
    DependencyUnavailable,
    InternalError,
    ModelLoading,
    ModelMoraError,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
    ValidationFailed,
)
from modelmora.ports import Fetch
from tests.doors.client_plane import STEPS, Plane, model_entry, report_entry
from tests.doors.client_script import Script
from tests.doors.client_servers import http_server


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
async def client(plane: Plane) -> AsyncIterator[Client]:
    with http_server(Script(), plane) as url:
        # The embeddings' URL is of no use here: nothing is connected before it is needed.
        async with Client("grpc://127.0.0.1:1", control_url=url, retry=Retry(initial_s=0.001)) as client:
            yield client


async def test_models_are_listed_over_all_pages(client: Client, plane: Plane) -> None:
    models = await client.models("embedding")
    assert [model.key for model in models] == ["shapes-clip@1.0.0", "vit-b-32@1.0.0"]
    assert models[0].default
    assert models[0].workers == ("default-1",)
    assert plane.requests == [
        ("GET", "/api/v1/models?limit=500&type=embedding"),
        ("GET", "/api/v1/models?limit=500&type=embedding&cursor=1"),
    ]


async def test_one_model_is_found_by_name_or_version(client: Client) -> None:
    assert (await client.model("vit-b-32")).state == "unloaded"
    assert (await client.model("vit-b-32@1.0.0")).name == "vit-b-32"


async def test_a_model_that_is_not_there_is_not_found(client: Client) -> None:
    with pytest.raises(ModelNotFound, match="no model 'absent'"):
        await client.model("absent")


@pytest.mark.parametrize("ref", ["../../secrets", "Upper", "a@b", ""])
async def test_what_is_no_model_name_is_refused_before_it_is_sent(client: Client, plane: Plane, ref: str) -> None:
    with pytest.raises(ValidationFailed, match="not a name"):
        await client.load(ref)
    assert plane.requests == []


async def test_loading_reports_what_happened(client: Client, plane: Plane) -> None:
    report = await client.load("vit-b-32")
    assert (report.model, report.state, report.workers, report.ms) == ("vit-b-32", "loaded", ("default-1",), 1234.5)
    assert (await client.unload("vit-b-32", wait=False)).state == "unloading"
    assert (await client.warmup("vit-b-32")).state == "loaded"
    assert plane.requests[1] == ("POST", "/api/v1/models/vit-b-32/unload?wait=false")


async def test_pulling_tells_how_far_it_is(client: Client) -> None:
    assert [fetch async for fetch in client.pull("vit-b-32")] == [
        Fetch(model="vit-b-32@1.0.0", done_bytes=1024, total_bytes=4096, licence="MIT"),
        Fetch(model="vit-b-32@1.0.0", done_bytes=4096, total_bytes=4096, licence="MIT", finished=True),
    ]


async def test_a_pull_that_fails_on_the_way_raises_what_the_server_said(client: Client, plane: Plane) -> None:
    plane.pull[1] = {"error": {"code": "dependency_unavailable", "detail": "the hub is out of reach"}}
    with pytest.raises(DependencyUnavailable, match="hub is out of reach"):
        [fetch async for fetch in client.pull("vit-b-32")]


async def test_all_that_the_server_says_of_an_error_on_the_way_is_kept(client: Client, plane: Plane) -> None:
    more = {"field": "model", "found": "a", "expected": "b", "retry_after_s": 2.5}
    plane.pull[1] = {"error": {"code": "overloaded", "detail": "busy", **more}}
    with pytest.raises(Overloaded, match="busy") as caught:
        [fetch async for fetch in client.pull("vit-b-32")]
    error = caught.value
    assert (error.field, error.found, error.expected, error.retry_after_s) == ("model", "a", "b", 2.5)


async def test_blank_lines_say_nothing(client: Client, plane: Plane) -> None:
    plane.pull[1:1] = ["", "  "]
    assert [fetch.finished async for fetch in client.pull("vit-b-32")] == [False, True]


@pytest.mark.parametrize(
    "line",
    [
        {"error": {}},
        {"error": "gone"},
        {"error": {"code": "overloaded", "detail": "busy", "retry_after_s": "soon"}},
        [1],
        7,
        "{",
    ],
)
async def test_a_line_of_another_shape_is_the_servers_defect(line: object, client: Client, plane: Plane) -> None:
    plane.pull[1] = line
    with pytest.raises(InternalError, match=r"another shape than promised|no JSON object"):
        [fetch async for fetch in client.pull("vit-b-32")]


async def test_a_line_of_another_shape_is_the_servers_defect_for_embeddings_too() -> None:
    plane = Plane(progress=["", {"stage": "queued", "percent": 0, "done": 0, "total": 0}, {"error": {}}])
    with http_server(Script(), plane) as url:
        async with Client(url) as client:
            news = client.embed_with_progress(b"x")
            assert isinstance(await anext(news), Progress)
            with pytest.raises(InternalError, match="another shape than promised"):
                await anext(news)


async def test_verifying_tells_how_far_it_is_and_what_it_found(client: Client, plane: Plane) -> None:
    steps = [dict(step) async for step in client.verify("shapes-clip@1.0.0", timeout=5)]
    assert steps == [*STEPS, report_entry()]
    assert plane.requests == [("POST", "/api/v1/models/shapes-clip@1.0.0/verify")]


async def test_a_verification_that_fails_on_the_way_raises_what_the_server_said(client: Client, plane: Plane) -> None:
    plane.findings[1] = {"error": {"code": "out_of_memory", "detail": "no room for a copy"}}
    with pytest.raises(OutOfMemory, match="no room for a copy"):
        [step async for step in client.verify("shapes-clip")]


async def test_a_busy_control_plane_is_asked_again(client: Client, plane: Plane) -> None:
    plane.troubles = deque([Overloaded("busy"), ModelLoading("soon")])
    assert len(await client.models()) == 2
    assert len(plane.requests) == 4


async def test_health_is_told_also_when_the_server_is_down(client: Client, plane: Plane) -> None:
    assert (await client.health())["status"] == "ok"
    assert await client.ready()
    plane.health = (503, {"status": "down"})
    assert (await client.health())["status"] == "down"
    assert not await client.ready()


@pytest.mark.parametrize("body", [{"message": "bad gateway"}, {"status": 502}, "bad gateway", []])
async def test_something_else_at_the_control_url_is_named_as_such(client: Client, plane: Plane, body: Any) -> None:
    plane.health = (502, body)
    with pytest.raises(DependencyUnavailable, match=r"/health answered 502 Bad Gateway: not a ModelMora problem"):
        await client.health()


async def test_a_model_without_a_name_is_the_servers_defect(client: Client, plane: Plane) -> None:
    entry = model_entry()
    del entry["name"]
    plane.models = [entry]
    with pytest.raises(InternalError, match="name"):
        await client.models()


async def test_limits_and_version_are_told_as_they_are(client: Client) -> None:
    assert await client.limits() == {"items": 256}
    assert await client.version() == {"version": "0.1.0"}


async def test_no_control_plane_is_told_with_its_url() -> None:
    async with Client("grpc://127.0.0.1:1", control_url="http://127.0.0.1:1", retry=Retry(retries=0)) as client:
        with pytest.raises(ModelMoraError) as caught:
            await client.models()
    assert (caught.value.code, caught.value.found) == ("dependency_unavailable", "http://127.0.0.1:1")


def test_the_sync_client_has_the_same_control_half(plane: Plane) -> None:
    with http_server(Script(), plane) as url, SyncClient(url) as client:
        assert len(client.models()) == 2
        assert client.model("shapes-clip").version == "1.0.0"
        assert client.load("shapes-clip", wait=False).state == "loading"
        assert client.unload("shapes-clip").state == "unloaded"
        assert client.warmup("shapes-clip").state == "loaded"
        assert [fetch.finished for fetch in client.pull("vit-b-32")] == [False, True]
        assert [step["stage"] for step in client.verify("shapes-clip")] == ["measuring", "measuring", "report"]
        assert client.health()["status"] == "ok"
        assert client.ready()
        assert client.limits() == {"items": 256}
        assert client.version() == {"version": "0.1.0"}
