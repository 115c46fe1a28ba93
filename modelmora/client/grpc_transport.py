"""Embedding over gRPC: in one answer, over a stream, or watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

from modelmora.client import grpc_messages as messages
from modelmora.client.answers import Answer, arrange, lost
from modelmora.client.embedding import Embedding
from modelmora.client.grpc_connection import caller_left
from modelmora.client.grpc_keeping import GrpcKeeping
from modelmora.client.grpc_tasks import GrpcTasks
from modelmora.client.progress import Progress
from modelmora.client.transport import Group
from modelmora.domain.inference import Call, Content
from modelmora.domain.outcome import Outcome, unwrap
from modelmora.errors import InternalError, ModelMoraError
from modelmora.proto import inference_pb2


class GrpcTransport(GrpcTasks, GrpcKeeping):
    """Everything of `modelmora.v1.ModelInference`."""

    async def embed(self, items: Sequence[Content], *, model: str | None, call: Call) -> list[Outcome[Embedding]]:
        try:
            return await self._send(_request(items, model, call), call)
        except ModelMoraError as error:
            return lost(len(items), error)

    async def batch(
        self, groups: AsyncGenerator[Group, None], *, model: str | None, call: Call
    ) -> AsyncGenerator[tuple[int, Outcome[Embedding]], None]:
        with self._calling("GenerateBatch", call) as start:
            rpc = start()
            writing = asyncio.create_task(_write(rpc, _requests(groups, model, call.truncate)))
            try:
                with _blaming(writing):
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
        with self._calling("GenerateEmbeddingStream", call) as start:
            rpc = start(_request([item], model, call))
            try:
                async for news in rpc:
                    if news.HasField("result"):
                        yield unwrap(messages.outcome(news.result, _answer(news)))
                    else:
                        yield messages.progress(news)
            finally:
                rpc.cancel()

    async def _send(self, request: inference_pb2.EmbeddingRequest, call: Call) -> list[Outcome[Embedding]]:
        response, timing = await self._ask("GenerateEmbedding", request, call)
        answer = Answer(model=response.model, version=response.version, server_timing=timing)
        results = ((result.index, messages.outcome(result, answer)) for result in response.results)
        return arrange(len(request.items), results)


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
        if not caller_left() and writing.done() and not writing.cancelled():
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
