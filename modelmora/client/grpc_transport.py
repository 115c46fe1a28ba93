"""Embedding over gRPC: several channels in turn, and gRPC's status back to our errors."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import grpc
import grpc.aio

from modelmora.client.address import Address
from modelmora.client.answers import Answer, arrange, item_error, lost
from modelmora.client.embedding import Embedding
from modelmora.domain.inference import Call, Content, Image
from modelmora.domain.outcome import Failed, Outcome
from modelmora.errors import Cancelled, DependencyUnavailable, InternalError, LimitExceeded, ModelMoraError, from_code
from modelmora.proto import inference_pb2, inference_pb2_grpc, types_pb2

_MAX_MESSAGE = 64 * 1024 * 1024
_OPTIONS = (
    # Channels to one address would share one connection; SO_REUSEPORT balances connections, not calls.
    ("grpc.use_local_subchannel_pool", 1),
    # gRPC's own backoff grows to two minutes: callers would wait long after the server is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # despite its name: how long one attempt to connect may take
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    ("grpc.enable_retries", 0),  # the client retries by code
)
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


class GrpcTransport:
    """`modelmora.v1.ModelInference` over `channels` connections, used in turn."""

    def __init__(self, address: Address, *, channels: int, token: str | None) -> None:
        self._target = address.target
        self._authorization = (("authorization", f"Bearer {token}"),) if token else ()
        self._channels = [_open(address) for _ in range(channels)]
        self._stubs = itertools.cycle([inference_pb2_grpc.ModelInferenceStub(channel) for channel in self._channels])

    async def embed(self, items: Sequence[Content], *, model: str | None, call: Call) -> list[Outcome[Embedding]]:
        request = inference_pb2.EmbeddingRequest(
            model=model or "", items=[_item(item) for item in items], truncate=call.truncate
        )
        try:
            return await self._send(request, call)
        except grpc.aio.AioRpcError as cause:
            error = error_of(cause, self._target)
            error.__cause__ = cause
        except asyncio.CancelledError:
            if _caller_left():
                raise
            error = Cancelled("the client was closed while the request ran")
        return lost(len(items), error)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def _send(self, request: inference_pb2.EmbeddingRequest, call: Call) -> list[Outcome[Embedding]]:
        rpc: Any = next(self._stubs).GenerateEmbedding(
            request,
            timeout=max(call.deadline - time.monotonic(), 0.0),
            metadata=(
                ("x-request-id", call.request_id),
                ("x-modelmora-priority", call.priority),
                *self._authorization,
            ),
        )
        response = await rpc
        trailing = _text_of(await rpc.trailing_metadata())
        answer = Answer(model=response.model, version=response.version, server_timing=trailing.get("server-timing", ""))
        return arrange(len(request.items), ((result.index, _outcome(result, answer)) for result in response.results))


def error_of(cause: grpc.aio.AioRpcError, target: str) -> ModelMoraError:
    """The error of a failed call as the server sent it, else by its code alone, else by gRPC's status."""
    detail = cause.details() or "no detail given"
    if whole := dict(cause.trailing_metadata() or ()).get("modelmora-error-bin"):
        return _item_error(types_pb2.ItemError.FromString(cast(bytes, whole)))
    trailing = _text_of(cause.trailing_metadata())
    if code := trailing.get("modelmora-code"):
        return from_code(code, detail, retry_after_s=_seconds(trailing.get("retry-after-s")))
    status = cause.code()
    if status in _BROKEN:  # a call we did not cancel was ended by the other side
        reason = detail.rpartition(": ")[2] if detail.startswith("failed to connect to all addresses") else detail
        return DependencyUnavailable(f"no answer from {target}: {reason}", field="url", found=target)
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in detail:
        return LimitExceeded(f"the request does not fit into one message: {detail}")
    return from_code(_CODES.get(status, "internal"), f"{target} answered {status.name}: {detail}")


def _open(address: Address) -> grpc.aio.Channel:
    if address.tls:
        return grpc.aio.secure_channel(address.target, grpc.ssl_channel_credentials(), options=_OPTIONS)
    return grpc.aio.insecure_channel(address.target, options=_OPTIONS)


def _item(content: Content) -> types_pb2.Item:
    if isinstance(content, Image):
        return types_pb2.Item(image=content.data)
    return types_pb2.Item(text=content.text)


def _outcome(result: inference_pb2.EmbeddingResult, answer: Answer) -> Outcome[Embedding]:
    match result.WhichOneof("outcome"):
        case "embedding":
            return _vector(result.embedding, answer)
        case "error":
            return Failed(_item_error(result.error))
        case _:
            return Failed(InternalError(f"the server answered item {result.index} with neither vector nor error"))


def _item_error(error: types_pb2.ItemError) -> ModelMoraError:
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


def _caller_left() -> bool:
    """False when gRPC cancels a call because its channel was closed: nobody cancelled the task."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _text_of(metadata: Any) -> dict[str, str]:
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
