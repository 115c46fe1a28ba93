"""Errors as gRPC statuses; metadata has the code (`modelmora-code`), ErrorInfo, and all (`modelmora-error-bin`)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
import structlog
from google.rpc import error_details_pb2, status_pb2

from api.errors import STATUSES, retry_after_s
from api.grpc.tracing import end_call, span_of_call
from modelmora.errors import Cancelled, ModelMoraError, unexpected
from modelmora.proto import types_pb2
from modelmora.telemetry import count_request
from modelmora.wire import error_to_wire

log = structlog.get_logger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
DETAILS = "grpc-status-details-bin"
LONGEST = 1_000
"""Characters of a detail: it is carried three times, and gRPC refuses trailers of more than 8 KiB."""

FAULTS_BYTES = 2_000
R = TypeVar("R")


async def abort(context: Context, error: ModelMoraError, request_id: str) -> NoReturn:
    """Ends the call with the error's status, code and what is wrong where."""
    row = STATUSES[error.code]
    trailing: list[tuple[str, str | bytes]] = [
        ("modelmora-code", error.code),
        ("x-request-id", request_id),
        ("modelmora-error-bin", _short(error_to_wire(error)).SerializeToString()),
        (DETAILS, _details(error, request_id).SerializeToString()),
    ]
    after = retry_after_s(error)
    if after is not None:
        trailing.append(("retry-after-s", f"{after:g}"))
    context.set_trailing_metadata(tuple(trailing))
    await context.abort(row.grpc, _cut(error.detail, LONGEST))
    raise AssertionError("abort returned")  # for the type checker: abort always raises


def _short(message: types_pb2.ItemError) -> types_pb2.ItemError:
    message.detail = _cut(message.detail, LONGEST)
    message.found, message.expected = _cut(message.found, 200), _cut(message.expected, 200)
    return message


async def answer(context: Context, request_id: str, work: Callable[[], Awaitable[R]]) -> R:
    """Runs the work of one call; whatever it raises leaves as a status."""
    started, code = time.perf_counter(), "cancelled"
    span = span_of_call()
    try:
        result = await work()
        code = "ok"
    except ModelMoraError as error:
        code = error.code
        await abort(context, error, request_id)
    except Exception as cause:
        log.error("request_failed", request_id=request_id, exc_info=cause)
        code = "internal"
        await abort(context, unexpected(), request_id)
    finally:
        count_request("grpc", code, time.perf_counter() - started)
        end_call(span, code, request_id=request_id)
    return result


async def sent(writing: Awaitable[None]) -> None:
    """A message of a stream; raises Cancelled where it cannot be written: the caller has left."""
    try:
        await writing
    except Exception as cause:  # gRPC has an error of its own for that, which it does not show
        raise Cancelled("the caller left") from cause


def _details(error: ModelMoraError, request_id: str) -> status_pb2.Status:
    facts = {
        "code": error.code,
        "request_id": request_id,
        "field": error.field,
        "found": error.found and _cut(error.found, 200),
        "expected": error.expected and _cut(error.expected, 200),
    }
    info = error_details_pb2.ErrorInfo(
        reason=error.code.upper(), domain="modelmora", metadata={k: v for k, v in facts.items() if v}
    )
    status = status_pb2.Status(code=STATUSES[error.code].grpc.value[0], message=_cut(error.detail, LONGEST))
    status.details.add().Pack(info)
    if error.faults:
        status.details.add().Pack(_faults(error))
    return status


def _faults(error: ModelMoraError) -> error_details_pb2.BadRequest:
    """What is wrong with each field or item, as far as there is room."""
    wrong, room = error_details_pb2.BadRequest(), FAULTS_BYTES
    for fault in error.faults:
        place = fault.field or "" if fault.index is None else f"items[{fault.index}]"
        violation = wrong.FieldViolation(
            field=_cut(place, 100), description=_cut(fault.detail, 300), reason=fault.code.upper()
        )
        room -= violation.ByteSize()
        if room < 0:
            break
        wrong.field_violations.append(violation)
    return wrong


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 3] + "..."
