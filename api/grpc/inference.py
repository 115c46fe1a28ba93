"""`modelmora.v1.ModelInference`: messages in, the embed use case, messages out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from api import render
from api.grpc.classify import ClassifyServicer
from api.grpc.compare import CompareServicer
from api.grpc.images import ImagesServicer
from api.grpc.messages import call_of, content_of, embedding_result, request_id_of
from api.grpc.predict import PredictServicer
from api.grpc.search import SearchServicer
from api.grpc.segment import SegmentServicer
from api.grpc.statuses import Context, answer, sent
from modelmora.domain.outcome import Failed
from modelmora.proto import inference_pb2 as pb
from modelmora.usecases.application import Application
from modelmora.usecases.embed import Embeddings
from modelmora.usecases.embed_stream import Entry, Streamed
from modelmora.usecases.embed_watched import Watched


class InferenceServicer(
    SegmentServicer, ClassifyServicer, PredictServicer, CompareServicer, ImagesServicer, SearchServicer
):
    """The inference half of the gRPC face."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def GenerateEmbedding(self, request: pb.EmbeddingRequest, context: Context) -> pb.EmbeddingResponse:
        request_id = request_id_of(context)

        async def work() -> pb.EmbeddingResponse:
            call = call_of(context, request_id, self._application.limits, truncate=request.truncate)
            items = [content_of(item) for item in request.items]
            result = await self._application.embed(request.model or None, items, call=call)
            context.set_trailing_metadata(
                (("server-timing", render.server_timing(result.timings, result.total_ms)), ("x-request-id", request_id))
            )
            return _response(request, result)

        return await answer(context, request_id, work)

    async def GenerateBatch(  # type: ignore[override] # what grpc calls its reader-writer API
        self, request_iterator: AsyncIterator[pb.BatchRequest], context: Context
    ) -> None:
        request_id = request_id_of(context)

        async def work() -> None:
            context.set_trailing_metadata((("x-request-id", request_id),))
            call = call_of(context, request_id, self._application.limits, stream=True)
            async with aclosing(self._application.embed_stream(_entries(request_iterator), call=call)) as parts:
                async for part in parts:
                    await sent(context.write(pb.BatchResponse(results=[_streamed(result) for result in part])))

        await answer(context, request_id, work)

    async def GenerateEmbeddingStream(  # type: ignore[override] # as above
        self, request: pb.EmbeddingRequest, context: Context
    ) -> None:
        request_id = request_id_of(context)

        async def work() -> None:
            context.set_trailing_metadata((("x-request-id", request_id),))
            call = call_of(context, request_id, self._application.limits, truncate=request.truncate)
            items = [content_of(item) for item in request.items]
            async with aclosing(self._application.embed_watched(request.model, items, call=call)) as steps:
                async for step in steps:
                    await sent(context.write(_progress(request, step)))

        await answer(context, request_id, work)


async def _entries(requests: AsyncIterator[pb.BatchRequest]) -> AsyncGenerator[Entry, None]:
    """The items of all messages; one that names no model goes to that of the message before."""
    model: str | None = None
    async for request in requests:
        model = request.model or model
        for item in request.items:
            yield Entry(content=content_of(item), tag=item.id, model=model, truncate=request.truncate)


def _streamed(result: Streamed) -> pb.BatchResult:
    return pb.BatchResult(
        result=embedding_result(result.index, result.tag, result.outcome),
        model=result.model.name if result.model else "",
        version=result.model.version if result.model else "",
        server_timing=render.item_timing(result.outcome, result.total_ms),
    )


def _progress(request: pb.EmbeddingRequest, news: Watched) -> pb.EmbeddingProgress:
    """A request of one item raises that item's error."""
    if isinstance(news.outcome, Failed) and len(request.items) == 1:
        raise news.outcome.error
    return pb.EmbeddingProgress(
        index=news.index,
        stage=news.step.stage,
        percent=news.percent,
        done=news.step.done,
        total=news.step.total,
        result=embedding_result(news.index, request.items[news.index].id, news.outcome) if news.outcome else None,
        model=news.model.name,
        version=news.model.version,
        server_timing=render.item_timing(news.outcome, news.total_ms) if news.outcome else "",
    )


def _response(request: pb.EmbeddingRequest, result: Embeddings) -> pb.EmbeddingResponse:
    """One result per item; a request of one item raises that item's error."""
    only = result.outcomes[0] if len(result.outcomes) == 1 else None
    if isinstance(only, Failed):
        raise only.error
    return pb.EmbeddingResponse(
        model=result.model.name,
        version=result.model.version,
        results=[
            embedding_result(index, item.id, outcome)
            for index, (item, outcome) in enumerate(zip(request.items, result.outcomes, strict=True))
        ],
    )
