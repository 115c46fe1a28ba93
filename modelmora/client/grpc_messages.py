"""Our values as gRPC messages and back; gRPC's errors become ours here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import grpc
import grpc.aio

from modelmora.client.answers import Answer, item_error
from modelmora.client.embedding import Embedding
from modelmora.client.progress import Progress
from modelmora.domain.inference import Content, Image
from modelmora.domain.outcome import Failed, Outcome
from modelmora.errors import DependencyUnavailable, InternalError, LimitExceeded, ModelMoraError, from_code
from modelmora.proto import inference_pb2, types_pb2

# For a status that came without our code: from gRPC itself or from a proxy.
_CODES: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.INVALID_ARGUMENT: "invalid_input",
    grpc.StatusCode.FAILED_PRECONDITION: "wrong_state",
    grpc.StatusCode.UNIMPLEMENTED: "capability_missing",
    grpc.StatusCode.UNAUTHENTICATED: "unauthenticated",
    grpc.StatusCode.PERMISSION_DENIED: "permission_denied",
    grpc.StatusCode.NOT_FOUND: "model_not_found",
    grpc.StatusCode.ABORTED: "conflict",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "overloaded",
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline_exceeded",
}
_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_CORE = "Internal error from Core"
"""What gRPC's own library says, as INTERNAL, when the connection breaks just as a message is written to it."""


def error_of(cause: grpc.aio.AioRpcError, target: str) -> ModelMoraError:
    """The error of a failed call as the server sent it, else by its code alone, else by gRPC's status."""
    detail = cause.details() or "no detail given"
    if whole := dict(cause.trailing_metadata() or ()).get("modelmora-error-bin"):
        return error_from(types_pb2.ItemError.FromString(cast(bytes, whole)))
    trailing = text_of(cause.trailing_metadata())
    if code := trailing.get("modelmora-code"):
        return from_code(code, detail, retry_after_s=_seconds(trailing.get("retry-after-s")))
    status = cause.code()
    if status in _BROKEN or detail == _CORE:  # a call we did not cancel was ended by the other side
        reason = detail.rpartition(": ")[2] if detail.startswith("failed to connect to all addresses") else detail
        return DependencyUnavailable(f"no answer from {target}: {reason}", field="url", found=target)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in detail:
        return LimitExceeded(f"the request does not fit into one message: {detail}")
    return from_code(_CODES.get(status, "internal"), f"{target} answered {status.name}: {detail}")


def item(content: Content, id_: str = "") -> types_pb2.Item:
    """A picture or a text to send."""
    if isinstance(content, Image):
        return types_pb2.Item(id=id_, image=content.data)
    return types_pb2.Item(id=id_, text=content.text)


def outcome(result: inference_pb2.EmbeddingResult, answer: Answer) -> Outcome[Embedding]:
    """What became of one item."""
    match result.WhichOneof("outcome"):
        case "embedding":
            return _vector(result.embedding, answer)
        case "error":
            return Failed(error_from(result.error))
        case _:
            return Failed(InternalError(f"the server answered item {result.index} with neither vector nor error"))


def error_from(error: types_pb2.ItemError) -> ModelMoraError:
    """The error of one item."""
    return item_error(
        error.code,
        error.detail,
        field=error.field,
        found=error.found,
        expected=error.expected,
        retry_after_s=error.retry_after_s,
    )


def _vector(vector: types_pb2.Vector, answer: Answer) -> Outcome[Embedding]:
    if vector.dtype not in (types_pb2.DTYPE_UNSPECIFIED, types_pb2.DTYPE_FLOAT32) or len(vector.shape) != 1:
        found = f"{types_pb2.DType.Name(vector.dtype)} {list(vector.shape)}"
        return Failed(
            InternalError("the server sent no flat float32 vector", field="embedding", found=found, expected="float32")
        )
    return answer.embedding(vector.data, dimension=vector.shape[0])


def progress(news: inference_pb2.EmbeddingProgress) -> Progress:
    """How far an item is."""
    return Progress(stage=news.stage, percent=news.percent, done=news.done, total=news.total)


def text_of(metadata: Any) -> dict[str, str]:
    """The textual metadata."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
