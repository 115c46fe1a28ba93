"""Embedding over gRPC: several channels in turn, and gRPC's status back to our errors."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
import grpc.aio

from modelmora.client import grpc_messages as messages
from modelmora.client.address import Address
from modelmora.client.answers import Answer, arrange, lost
from modelmora.client.embedding import Embedding
from modelmora.client.progress import Progress
from modelmora.client.transport import Group
from modelmora.domain.inference import Call, Content
from modelmora.domain.outcome import Outcome, unwrap
from modelmora.errors import Cancelled, InternalError, ModelMoraError
from modelmora.proto import inference_pb2, inference_pb2_grpc

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


class GrpcTransport:
    """`modelmora.v1.ModelInference` over `channels` connections, used in turn."""

    def __init__(self, address: Address, *, channels: int, token: str | None) -> None:
        self._target = address.target
        self._authorization = (("authorization", f"Bearer {token}"),) if token else ()
        self._channels = [_open(address) for _ in range(channels)]
        self._stubs = itertools.cycle([inference_pb2_grpc.ModelInferenceStub(channel) for channel in self._channels])

    async def embed(self, items: Sequence[Content], *, model: str | None, call: Call) -> list[Outcome[Embedding]]:
        try:
            with self._translated():
                return await self._send(_request(items, model, call), call)
        except ModelMoraError as error:
            return lost(len(items), error)

    async def batch(
        self, groups: AsyncGenerator[Group, None], *, model: str | None, call: Call
    ) -> AsyncGenerator[tuple[int, Outcome[Embedding]], None]:
        rpc: Any = next(self._stubs).GenerateBatch(**self._options(call))
        writing = asyncio.create_task(_write(rpc, _requests(groups, model, call.truncate)))
        try:
            with self._translated(), _blaming(writing):
                async for response in rpc:
                    for each in response.results:
                        yield _number(each.result), messages.outcome(each.result, _answer(each))
        finally:
            rpc.cancel()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def progress(
        self, item: Content, *, model: str | None, call: Call
    ) -> AsyncGenerator[Progress | Embedding, None]:
        rpc: Any = next(self._stubs).GenerateEmbeddingStream(_request([item], model, call), **self._options(call))
        try:
            with self._translated():
                async for news in rpc:
                    if news.HasField("result"):
                        yield unwrap(messages.outcome(news.result, _answer(news)))
                    else:
                        yield messages.progress(news)
        finally:
            rpc.cancel()

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def _send(self, request: inference_pb2.EmbeddingRequest, call: Call) -> list[Outcome[Embedding]]:
        rpc: Any = next(self._stubs).GenerateEmbedding(request, **self._options(call))
        response = await rpc
        timing = messages.text_of(await rpc.trailing_metadata()).get("server-timing", "")
        answer = Answer(model=response.model, version=response.version, server_timing=timing)
        results = ((result.index, messages.outcome(result, answer)) for result in response.results)
        return arrange(len(request.items), results)

    def _options(self, call: Call) -> dict[str, Any]:
        return {
            "timeout": None if math.isinf(call.deadline) else max(call.deadline - time.monotonic(), 0.0),
            "metadata": (
                ("x-request-id", call.request_id),
                ("x-modelmora-priority", call.priority),
                *self._authorization,
            ),
        }

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as cause:
            raise messages.error_of(cause, self._target) from cause
        except asyncio.CancelledError:
            if _caller_left():
                raise
            raise Cancelled("the client was closed while the request ran") from None


async def _write(rpc: Any, requests: AsyncGenerator[inference_pb2.BatchRequest, None]) -> None:
    """Ends the call where a message cannot be made: its reader would wait for ever. A failed write does that itself."""
    try:
        async with aclosing(requests):
            async for request in requests:
                await rpc.write(request)
        await rpc.done_writing()
    except InternalError:
        rpc.cancel()
        raise


async def _requests(
    groups: AsyncGenerator[Group, None], model: str | None, truncate: bool
) -> AsyncGenerator[inference_pb2.BatchRequest, None]:
    """One for each group; the item's number is its id. Raises InternalError where one cannot be made."""
    try:
        async with aclosing(groups):
            async for group in groups:
                items = [messages.item(content, str(number)) for number, content in group]
                yield inference_pb2.BatchRequest(model=model or "", items=items, truncate=truncate)
    except Exception as cause:
        raise InternalError(f"the items cannot be sent: {cause!r}") from cause


@contextmanager
def _blaming(writing: asyncio.Task[None]) -> Iterator[None]:
    """A call that its writer ended fails for the writer's reason."""
    try:
        yield
    except asyncio.CancelledError:
        if not _caller_left() and writing.done() and not writing.cancelled():
            trouble = writing.exception()
            if isinstance(trouble, InternalError):
                raise trouble from trouble.__cause__
        raise


def _answer(told: inference_pb2.BatchResult | inference_pb2.EmbeddingProgress) -> Answer:
    return Answer(model=told.model, version=told.version, server_timing=told.server_timing)


def _number(result: inference_pb2.EmbeddingResult) -> int:
    if not (result.id.isascii() and result.id.isdigit()):
        raise InternalError(f"the server answered with the id {result.id[:40]!r}, which was never sent")
    return int(result.id)


def _request(items: Sequence[Content], model: str | None, call: Call) -> inference_pb2.EmbeddingRequest:
    return inference_pb2.EmbeddingRequest(
        model=model or "", items=[messages.item(item) for item in items], truncate=call.truncate
    )


def _open(address: Address) -> grpc.aio.Channel:
    if address.tls:
        return grpc.aio.secure_channel(address.target, grpc.ssl_channel_credentials(), options=_OPTIONS)
    return grpc.aio.insecure_channel(address.target, options=_OPTIONS)


def _caller_left() -> bool:
    """False when gRPC cancels a call because its channel was closed: nobody cancelled the task."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
