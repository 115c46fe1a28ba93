"""Errors as gRPC statuses; metadata has the code (`modelmora-code`), ErrorInfo, and all (`modelmora-error-bin`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
import structlog
from google.rpc import error_details_pb2, status_pb2

from api.errors import STATUSES, retry_after_s
from modelmora.errors import ModelMoraError, unexpected
from modelmora.telemetry import REQUESTS
from modelmora.wire import error_to_wire

log = structlog.get_logger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
DETAILS = "grpc-status-details-bin"
R = TypeVar("R")


async def abort(context: Context, error: ModelMoraError, request_id: str) -> NoReturn:
    """Ends the call with the error's status, code and what is wrong where."""
    row = STATUSES[error.code]
    trailing: list[tuple[str, str | bytes]] = [
        ("modelmora-code", error.code),
        ("x-request-id", request_id),
        ("modelmora-error-bin", error_to_wire(error).SerializeToString()),
        (DETAILS, _details(error, request_id).SerializeToString()),
    ]
    after = retry_after_s(error)
    if after is not None:
        trailing.append(("retry-after-s", f"{after:g}"))
    context.set_trailing_metadata(tuple(trailing))
    await context.abort(row.grpc, error.detail)
    raise AssertionError("abort returned")  # for the type checker: abort always raises


async def answer(context: Context, request_id: str, work: Callable[[], Awaitable[R]]) -> R:
    """Runs the work of one call; whatever it raises leaves as a status."""
    try:
        result = await work()
    except ModelMoraError as error:
        REQUESTS.labels("grpc", error.code).inc()
        await abort(context, error, request_id)
    except Exception as cause:
        log.error("request_failed", request_id=request_id, exc_info=cause)
        REQUESTS.labels("grpc", "internal").inc()
        await abort(context, unexpected(), request_id)
    REQUESTS.labels("grpc", "ok").inc()
    return result


def _details(error: ModelMoraError, request_id: str) -> status_pb2.Status:
    facts = {
        "code": error.code,
        "request_id": request_id,
        "field": error.field,
        "found": error.found,
        "expected": error.expected,
    }
    info = error_details_pb2.ErrorInfo(
        reason=error.code.upper(), domain="modelmora", metadata={k: v for k, v in facts.items() if v}
    )
    status = status_pb2.Status(code=STATUSES[error.code].grpc.value[0], message=error.detail)
    status.details.add().Pack(info)
    return status
