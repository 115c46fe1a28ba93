"""What the client makes of answers, also of bad ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import grpc
import grpc.aio
import httpx
import pytest

from modelmora.client.address import Address
from modelmora.client.answers import arrange, item_error, parse_server_timing
from modelmora.client.chunks import chunks
from modelmora.client.embedding import Embedding
from modelmora.client.grpc_messages import error_of as error_of_call
from modelmora.client.http_connection import error_of as error_of_response
from modelmora.client.http_transport import _outcomes
from modelmora.domain.inference import Content, Image, Text
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import DependencyUnavailable, InternalError, InvalidInput, ModelMoraError, leaves


def test_answers_are_put_in_order_and_what_is_missing_fails() -> None:
    failed = Failed(InvalidInput("x"))
    outcomes: list[Outcome[Embedding]] = arrange(3, [(2, failed), (0, failed), (7, failed)])
    first, second, third = outcomes
    assert first is third is failed
    assert isinstance(second, Failed)
    assert second.error.detail == "the server left out item 1"


def test_server_timing_is_read_as_far_as_it_can_be() -> None:
    assert parse_server_timing("queue;dur=1.5, inference;dur=20;desc=x, cache, total;dur=soon") == {
        "queue": 1.5,
        "inference": 20.0,
    }


def test_empty_fields_of_an_item_error_are_absent() -> None:
    error = item_error("invalid_input", "", field="", found="", retry_after_s=0.0)
    assert (error.detail, error.field, error.found, error.retry_after_s) == ("invalid_input", None, None, None)


@pytest.mark.parametrize(
    "body",
    [
        [],
        None,
        {"model": "m", "version": "1.0.0", "dimension": 1},
        {"model": "m", "version": "1.0.0", "dimension": 1, "data": [{"index": 0}]},
        {"model": "m", "version": "1.0.0", "dimension": 1, "data": [{"index": 0, "embedding": "%%%"}]},
        {"model": "m", "version": "1.0.0", "dimension": 1, "data": [{"index": 0, "embedding": [1.0]}]},
        {"model": "m", "version": "1.0.0", "dimension": 1, "data": [{"index": 0, "error": {}}]},
    ],
)
def test_an_answer_of_another_shape_is_the_servers_defect(body: object) -> None:
    with pytest.raises(InternalError, match="another shape"):
        _outcomes(1, body, "")


def response(status: int, body: object = None, **headers: str) -> httpx.Response:
    request = httpx.Request("GET", "http://host/path")
    return httpx.Response(status, content=json.dumps(body), headers=headers, request=request)


@pytest.mark.parametrize("code", [error.code for error in leaves()])
def test_a_problem_is_its_code_whatever_the_status(code: str) -> None:
    error = error_of_response(response(418, {"code": code, "detail": "why", "status": 418}))
    assert (error.code, error.detail) == (code, "why")


def test_a_problem_keeps_what_was_wrong_with_each_item() -> None:
    errors = [{"index": 3, "field": "image", "found": "gif", "expected": "png"}, "no object"]
    error = error_of_response(response(415, {"code": "unsupported_media", "detail": "why", "errors": errors}))
    assert (error.field, error.found, error.expected) == ("image", "gif", "png")
    assert [(fault.index, fault.code) for fault in error.faults] == [(3, "unsupported_media")]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (502, "dependency_unavailable"),
        (503, "dependency_unavailable"),
        (504, "deadline_exceeded"),
        (429, "rate_limited"),
        (404, "capability_missing"),
        (401, "unauthenticated"),
        (500, "internal"),
        (418, "internal"),
    ],
)
@pytest.mark.parametrize("body", [None, [], {"message": "from a proxy"}])
def test_a_status_without_a_problem_is_mapped_by_number(status: int, code: str, body: object) -> None:
    error = error_of_response(response(status, body))
    assert error.code == code
    assert f"http://host/path answered {status}" in error.detail


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("soon", None)])
def test_retry_after_is_read_as_seconds(header: str, seconds: float | None) -> None:
    assert error_of_response(response(503, **{"retry-after": header})).retry_after_s == seconds


def test_retry_after_is_read_as_a_date() -> None:
    when = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert error_of_response(response(503, **{"retry-after": when})).retry_after_s == pytest.approx(99.5, abs=1.0)


def failed_call(
    status: grpc.StatusCode, detail: str = "why", trailing: Sequence[tuple[str, str | bytes]] = ()
) -> ModelMoraError:
    cause = grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=detail)
    return error_of_call(cause, "host:1")


@pytest.mark.parametrize("code", [error.code for error in leaves()])
def test_a_failed_call_is_its_code_whatever_the_status(code: str) -> None:
    trailing = (("modelmora-code", code), ("retry-after-s", "2.5"), ("grpc-status-details-bin", b"\x08"))
    error = failed_call(grpc.StatusCode.UNKNOWN, trailing=trailing)
    assert (error.code, error.detail, error.retry_after_s) == (code, "why", 2.5)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, "dependency_unavailable"),
        (grpc.StatusCode.CANCELLED, "dependency_unavailable"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"),
        (grpc.StatusCode.UNIMPLEMENTED, "capability_missing"),
        (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"),
        (grpc.StatusCode.UNKNOWN, "internal"),
    ],
)
def test_a_call_that_failed_without_our_code_is_mapped_by_status(status: grpc.StatusCode, code: str) -> None:
    assert failed_call(status).code == code


def test_a_message_that_is_too_large_is_not_a_busy_server() -> None:
    detail = "CLIENT: Sent message larger than max (70000000 vs. 67108864)"
    assert failed_call(grpc.StatusCode.RESOURCE_EXHAUSTED, detail).code == "limit_exceeded"


def test_an_unreadable_retry_after_is_none() -> None:
    trailing = (("modelmora-code", "overloaded"), ("retry-after-s", "soon"))
    assert failed_call(grpc.StatusCode.UNAVAILABLE, trailing=trailing).retry_after_s is None


async def test_requests_hold_so_many_items_and_so_many_bytes() -> None:
    async def contents() -> object:
        for size in (4, 4, 4, 20, 1, 1, 1, 1, 1):
            yield Ok(Image(b"x" * size))
        yield Failed(InvalidInput("x"))
        yield Ok(Text("four"))

    sizes = [[_size(content) for content in chunk] async for chunk in chunks(contents(), items=4, size=10)]  # type: ignore[arg-type]  # an async generator
    assert sizes == [[4, 4], [4], [20], [1, 1, 1, 1], [1, 0], [4]]


def _size(content: Outcome[Content]) -> int:
    match content:
        case Ok(Image(data)):
            return len(data)
        case Ok(Text(text)):
            return len(text)
        case _:
            return 0


@pytest.mark.parametrize(
    ("url", "target", "control_url"),
    [
        ("grpc://127.0.0.1:50051", "127.0.0.1:50051", "http://127.0.0.1:3000"),
        ("grpcs://host", "host:50051", "https://host:3000"),
        ("http://host:3000", "host:3000", "http://host:3000"),
        ("https://host/models/", "host:443", "https://host:443/models"),
        ("grpc://[::1]:7", "[::1]:7", "http://[::1]:3000"),
    ],
)
def test_a_url_says_where_both_halves_are(url: str, target: str, control_url: str) -> None:
    address = Address.parse(url)
    assert (address.target, address.control_url) == (target, control_url)


@pytest.mark.parametrize(
    "url", ["", "host:3000", "ftp://host", "grpc://", "http://host:port", "grpc://host/path", "http://["]
)
def test_what_is_no_url_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ModelMoraError, match="not the URL of a server") as caught:
        Address.parse(url)
    assert caught.value.code == "validation"


def test_a_connection_that_breaks_under_a_write_is_no_answer_of_the_server() -> None:
    nothing = grpc.aio.Metadata()
    broken = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, details="Internal error from Core")
    answered = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, details="a defect")

    assert isinstance(error_of_call(broken, "here:1"), DependencyUnavailable)
    assert error_of_call(answered, "here:1").code == "internal"
