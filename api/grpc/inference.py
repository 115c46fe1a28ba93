"""`modelmora.v1.ModelInference`: messages in, the embed use case, messages out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

import grpc

from api import calls, render
from api.grpc.statuses import Context, answer
from modelmora.domain.inference import Call, Content, Embedded, Image, Text
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import CapabilityMissing, ValidationFailed
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, types_pb2
from modelmora.usecases.application import Application
from modelmora.usecases.embed import Embeddings
from modelmora.usecases.embed_stream import Entry, Streamed
from modelmora.usecases.embed_watched import Watched
from modelmora.wire import error_to_wire


class NotYet(inference_pb2_grpc.ModelInferenceServicer):
    """What is declared and not served yet."""

    async def Segment(self, request: pb.SegmentRequest, context: Context) -> None:  # type: ignore[override]
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not served yet")

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not served yet")

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not served yet")

    async def Compare(self, request: pb.CompareRequest, context: Context) -> pb.CompareResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not served yet")


class InferenceServicer(NotYet):
    """The inference half of the gRPC face."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def GenerateEmbedding(self, request: pb.EmbeddingRequest, context: Context) -> pb.EmbeddingResponse:
        metadata = metadata_of(context)
        request_id = calls.request_id(metadata.get(calls.REQUEST_ID))

        async def work() -> pb.EmbeddingResponse:
            call = self._call(metadata, request_id, context.time_remaining(), truncate=request.truncate)
            items = [_content(item) for item in request.items]
            result = await self._application.embed(request.model or None, items, call=call)
            context.set_trailing_metadata(
                (("server-timing", render.server_timing(result.timings, result.total_ms)), ("x-request-id", request_id))
            )
            return _response(request, result)

        return await answer(context, request_id, work)

    async def GenerateBatch(  # type: ignore[override] # what grpc calls its reader-writer API
        self, request_iterator: AsyncIterator[pb.BatchRequest], context: Context
    ) -> None:
        metadata = metadata_of(context)
        request_id = calls.request_id(metadata.get(calls.REQUEST_ID))

        async def work() -> None:
            context.set_trailing_metadata((("x-request-id", request_id),))
            call = self._call(metadata, request_id, context.time_remaining(), stream=True)
            async with aclosing(self._application.embed_stream(_entries(request_iterator), call=call)) as parts:
                async for part in parts:
                    await context.write(pb.BatchResponse(results=[_streamed(result) for result in part]))

        await answer(context, request_id, work)

    async def GenerateEmbeddingStream(  # type: ignore[override] # as above
        self, request: pb.EmbeddingRequest, context: Context
    ) -> None:
        metadata = metadata_of(context)
        request_id = calls.request_id(metadata.get(calls.REQUEST_ID))

        async def work() -> None:
            context.set_trailing_metadata((("x-request-id", request_id),))
            call = self._call(metadata, request_id, context.time_remaining(), truncate=request.truncate)
            items = [_content(item) for item in request.items]
            async with aclosing(self._application.embed_watched(request.model, items, call=call)) as steps:
                async for step in steps:
                    await context.write(_progress(request, step))

        await answer(context, request_id, work)

    def _call(
        self,
        metadata: Mapping[str, str],
        request_id: str,
        remaining_s: float | None,
        *,
        truncate: bool = False,
        stream: bool = False,
    ) -> Call:
        return calls.read_call(
            metadata,
            id_=request_id,
            face="grpc",
            limits=self._application.limits,
            truncate=truncate,
            remaining_s=remaining_s,
            stream=stream,
        )


def metadata_of(context: Context) -> dict[str, str]:
    """The call's textual metadata."""
    return {k: v for k, v in context.invocation_metadata() or () if isinstance(v, str)}


def _content(item: types_pb2.Item) -> Outcome[Content]:
    match item.WhichOneof("content"):
        case "image":
            return Ok(Image(item.image))
        case "text":
            return Ok(Text(item.text))
        case "object":
            return Failed(CapabilityMissing("stored pictures are not served yet; send the bytes", field="object"))
    return Failed(ValidationFailed("the item is empty", field="content", found="nothing", expected="image or text"))


async def _entries(requests: AsyncIterator[pb.BatchRequest]) -> AsyncGenerator[Entry, None]:
    """The items of all messages; one that names no model goes to that of the message before."""
    model: str | None = None
    async for request in requests:
        model = request.model or model
        for item in request.items:
            yield Entry(content=_content(item), tag=item.id, model=model, truncate=request.truncate)


def _streamed(result: Streamed) -> pb.BatchResult:
    return pb.BatchResult(
        result=_result(result.index, result.tag, result.outcome),
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
        result=_result(news.index, request.items[news.index].id, news.outcome) if news.outcome else None,
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
            _result(index, item.id, outcome)
            for index, (item, outcome) in enumerate(zip(request.items, result.outcomes, strict=True))
        ],
    )


def _result(index: int, id_: str, outcome: Outcome[Embedded]) -> pb.EmbeddingResult:
    match outcome:
        case Ok(value):
            vector = types_pb2.Vector(
                data=value.vector.data, dtype=types_pb2.DTYPE_FLOAT32, shape=[value.vector.dimension]
            )
            return pb.EmbeddingResult(index=index, id=id_, embedding=vector)
        case Failed(error):
            return pb.EmbeddingResult(index=index, id=id_, error=error_to_wire(error))
