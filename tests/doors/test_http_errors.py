"""What every HTTP answer has in common: statuses, problems, request ids, limits, deadlines, CORS."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message

from api.core import Core
from api.errors import STATUSES
from api.http.app import create_app
from modelmora.errors import InternalError, ModelMoraError, Overloaded, PermissionDenied, ValidationFailed, leaves
from tests.doors.conftest import MAX_BODY
from tests.fakes import World

Serve = Callable[[ASGIApp], httpx.AsyncClient]
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
RETRIED = {"rate_limited", "quota_exceeded", "overloaded", "model_loading", "dependency_unavailable"}


async def ask(http: httpx.AsyncClient, **headers: str) -> httpx.Response:
    return await http.post("/v1/embed/text", json={"texts": ["a", "b"]}, headers=headers)


@pytest.mark.parametrize("error", [leaf for leaf in leaves() if leaf.code != "cancelled"], ids=lambda e: e.code)
async def test_every_error_gives_the_tables_status_as_a_problem(
    error: type[ModelMoraError], world: World, http: httpx.AsyncClient
) -> None:
    world.embedder.raises = error("what went wrong")

    answer = await ask(http, **{"x-request-id": "req-1"})

    row = STATUSES[error.code]
    assert answer.status_code == row.http
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == "req-1"
    assert answer.headers.get("retry-after") == ("1" if error.code in RETRIED else None)
    assert answer.json() == {
        "type": f"urn:modelmora:error:{error.code}",
        "title": row.title,
        "status": row.http,
        "detail": "what went wrong",
        "code": error.code,
        "request_id": "req-1",
    }


async def test_retry_after_is_in_whole_seconds_and_never_too_early(world: World, http: httpx.AsyncClient) -> None:
    world.embedder.raises = Overloaded("full", retry_after_s=2.2)

    assert (await ask(http)).headers["retry-after"] == "3"


async def test_a_problem_names_the_field_what_was_found_and_what_was_expected(
    world: World, http: httpx.AsyncClient
) -> None:
    world.embedder.raises = ValidationFailed("no", field="texts", found="7", expected="at most 6")

    assert (await ask(http)).json()["errors"] == [
        {"code": "validation", "detail": "no", "field": "texts", "found": "7", "expected": "at most 6"}
    ]


@pytest.mark.parametrize("trouble", [RuntimeError("secret path /etc/x"), KeyError("secret"), InternalError("shown")])
async def test_a_defect_is_a_500_that_shows_nothing_of_the_inside(
    trouble: Exception, world: World, http: httpx.AsyncClient
) -> None:
    world.embedder.raises = trouble

    answer = await ask(http)

    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_an_answer_of_the_wrong_length_is_a_defect_and_never_a_shifted_result(
    world: World, http: httpx.AsyncClient
) -> None:
    world.embedder.lost = 1

    assert (await ask(http)).status_code == 500


async def test_a_defect_in_the_control_plane_is_a_problem_too(world: World, http: httpx.AsyncClient) -> None:
    world.host.troubles["clip@1.0.0"] = RuntimeError("secret")

    answer = await http.post("/api/v1/models/clip/load")

    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text


async def test_a_request_id_is_kept(world: World, http: httpx.AsyncClient) -> None:
    answer = await ask(http, **{"x-request-id": "Order_7.a-b"})

    assert answer.headers["x-request-id"] == "Order_7.a-b"
    assert world.embedder.asked[0].call.request_id == "Order_7.a-b"


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, "<script>", "käse"])
async def test_a_request_id_that_is_none_is_replaced(given: str, http: httpx.AsyncClient) -> None:
    answer = await http.get("/livez", headers=[(b"x-request-id", given.encode("latin-1"))])

    assert UUID7.fullmatch(answer.headers["x-request-id"])


async def test_request_ids_differ_and_sort_by_time(http: httpx.AsyncClient) -> None:
    ids = [(await http.get("/livez")).headers["x-request-id"] for _ in range(3)]

    assert len(set(ids)) == 3
    assert [i[:8] for i in ids] == sorted(i[:8] for i in ids)


async def test_the_timeout_header_sets_the_deadline(world: World, http: httpx.AsyncClient) -> None:
    before = time.monotonic()
    for headers in ({"x-modelmora-timeout-ms": "1000"}, {"x-modelmora-timeout-ms": "60000"}, {}):
        await ask(http, **headers)
    after = time.monotonic()

    for asked, seconds in zip(world.embedder.asked, (1, 60, 10), strict=True):
        assert before + seconds <= asked.call.deadline <= after + seconds


@pytest.mark.parametrize("given", ["0", "-5", "1.5", "soon", "", "60001", "9" * 40, "0000600001", "²", "1_0"])
async def test_a_timeout_that_is_none_is_refused_before_any_work(
    given: str, world: World, http: httpx.AsyncClient
) -> None:
    headers = [(b"x-modelmora-timeout-ms", given.encode("latin-1"))]
    answer = await http.post("/v1/embed/text", json={"texts": ["a"]}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (422, "validation")
    assert answer.json()["errors"][0]["field"] == "x-modelmora-timeout-ms"
    assert answer.json()["errors"][0]["expected"] == "1 to 60000"
    assert world.embedder.asked == []


async def test_the_priority_header_travels_with_the_call(world: World, http: httpx.AsyncClient) -> None:
    for headers in ({"x-modelmora-priority": "bulk"}, {"x-modelmora-priority": "interactive"}, {}):
        await ask(http, **headers)

    assert [asked.call.priority for asked in world.embedder.asked] == ["bulk", "interactive", "interactive"]


@pytest.mark.parametrize("given", ["urgent", "", "BULK"])
async def test_a_priority_that_is_none_is_refused(given: str, world: World, http: httpx.AsyncClient) -> None:
    answer = await ask(http, **{"x-modelmora-priority": given})

    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "x-modelmora-priority")
    assert world.embedder.asked == []


async def bodies(size: int, pulled: list[int]) -> AsyncIterator[bytes]:
    for _ in range(size // 1024):
        pulled.append(1024)
        yield b"x" * 1024


@pytest.mark.parametrize("path", ["/v1/embed/image", "/v1/embeddings"])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_over_the_limit_is_refused_without_reading_it_all(
    path: str, declared: bool, world: World, http: httpx.AsyncClient
) -> None:
    pulled: list[int] = []
    kind = "image/png" if path.endswith("image") else "application/json"
    headers = {"content-type": kind} | ({"content-length": str(10 * MAX_BODY)} if declared else {})

    answer = await http.post(path, content=bodies(10 * MAX_BODY, pulled), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (413, "limit_exceeded")
    assert answer.json()["errors"][0]["expected"] == f"at most {MAX_BODY} bytes"
    assert sum(pulled) <= (0 if declared else MAX_BODY + 1024)
    assert world.embedder.asked == []


async def test_a_form_over_the_limit_is_refused_while_it_comes_in(world: World, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/embed/image", files=[("files", ("a.png", b"x" * (MAX_BODY + 1)))])

    assert (answer.status_code, answer.json()["code"]) == (413, "limit_exceeded")
    assert world.embedder.asked == []


async def test_a_body_of_exactly_the_limit_is_read(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/embeddings", content=b"x" * MAX_BODY, headers={"content-type": "application/json"})

    assert answer.json()["code"] == "invalid_input"


async def test_an_unknown_path_is_a_404_problem(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/nothing")

    assert answer.status_code == answer.json()["status"] == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/v1/embed/text", "POST"), ("PUT", "/v1/embeddings", "POST"), ("DELETE", "/api/v1/models", "GET")],
)
async def test_a_wrong_method_is_a_405_problem_that_names_the_right_one(
    method: str, path: str, allowed: str, core: Core, serve: Serve
) -> None:
    for behind in (None, other_app()):
        http = serve(create_app(core, max_body_bytes=MAX_BODY, fallback=behind))

        answer = await http.request(method, path)

        assert answer.status_code == answer.json()["status"] == 405
        assert answer.headers["content-type"] == "application/problem+json"
        assert allowed in answer.headers["allow"]


def other_app() -> Starlette:
    async def page(request: Request) -> Response:
        return PlainTextResponse("the other application")

    return Starlette(routes=[Route("/schema.json", page), Route("/v1/embed/text", page, methods=["POST"])])


async def test_what_is_not_ours_goes_to_the_application_behind(core: Core, serve: Serve) -> None:
    http = serve(create_app(core, max_body_bytes=MAX_BODY, fallback=other_app()))

    theirs, ours, nobodys = await http.get("/schema.json"), await ask(http), await http.get("/nothing")

    assert theirs.text == "the other application"
    assert theirs.headers["x-request-id"]
    assert len(ours.json()["data"]) == 2
    assert (nobodys.status_code, nobodys.headers["content-type"]) == (404, "application/problem+json")


async def test_before_the_start_everything_but_livez_says_why_it_must_wait(serve: Serve) -> None:
    http = serve(create_app(Core(why="the database is away"), max_body_bytes=MAX_BODY))

    alive, *others = [await http.get(p) for p in ("/livez", "/readyz", "/health", "/api/v1/models", "/v1/models")]

    assert alive.status_code == 200
    assert {(a.status_code, a.json()["code"], a.json()["detail"]) for a in others} == {
        (503, "dependency_unavailable", "the database is away")
    }
    assert {a.headers["retry-after"] for a in others} == {"1"}


async def test_a_refusal_answers_everything_but_livez(core: Core, serve: Serve) -> None:
    refusal = PermissionDenied("this server listens beyond 127.0.0.1")
    http = serve(create_app(core, max_body_bytes=MAX_BODY, refusal=lambda: refusal))

    assert (await http.get("/livez")).status_code == 200
    for answer in (await ask(http), await http.get("/health"), await http.get("/schema.json")):
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")
        assert answer.headers["content-type"] == "application/problem+json"


async def test_other_origins_may_not_read_answers_by_default(http: httpx.AsyncClient) -> None:
    answer = await http.get("/version", headers={"origin": "https://shop.example"})

    assert [name for name in answer.headers if name.startswith("access-control")] == []


async def test_a_listed_origin_may_and_another_may_not(core: Core, serve: Serve) -> None:
    http = serve(create_app(core, max_body_bytes=MAX_BODY, cors_origins=["https://shop.example"]))
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "x-modelmora-priority"}

    listed = await http.get("/version", headers={"origin": "https://shop.example"})
    asked = await http.options("/v1/embeddings", headers={"origin": "https://shop.example", **preflight})
    other = await http.get("/version", headers={"origin": "https://evil.example"})
    refused = await http.options("/v1/embeddings", headers={"origin": "https://evil.example", **preflight})

    assert listed.headers["access-control-allow-origin"] == "https://shop.example"
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "https://shop.example")
    assert "x-modelmora-priority" in asked.headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in other.headers
    assert refused.status_code == 400


async def test_a_listed_origin_reads_problems_too(core: Core, serve: Serve) -> None:
    http = serve(create_app(core, max_body_bytes=MAX_BODY, cors_origins=["https://shop.example"]))

    answer = await http.get("/v1/nothing", headers={"origin": "https://shop.example"})

    assert answer.headers["access-control-allow-origin"] == "https://shop.example"


async def test_a_caller_who_hangs_up_while_sending_leaves_no_answer_and_no_error(core: Core) -> None:
    app = create_app(core, max_body_bytes=MAX_BODY)
    sent: list[Message] = []
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"texts":', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/embed/text",
        "raw_path": b"/v1/embed/text",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("modelmora.test", 80),
    }
    await app(scope, receive, send)

    assert sent == []
