"""`Classify` of `modelmora.v1.ModelInference`: pictures to classes."""

from __future__ import annotations

from api import render
from api.grpc.messages import call_of, content_of, request_id_of
from api.grpc.statuses import Context, answer
from modelmora.domain.classification import Classified
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc
from modelmora.usecases.application import Application
from modelmora.usecases.classify import TOP_K, Classification
from modelmora.wire import error_to_wire


class ClassifyServicer(inference_pb2_grpc.ModelInferenceServicer):
    """The RPC of one use case; who inherits it has the application."""

    _application: Application

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        request_id = request_id_of(context)

        async def work() -> pb.ClassifyResponse:
            result = await self._application.classify(
                request.model or None,
                [content_of(item) for item in request.items],
                labels=request.labels,
                templates=request.templates,
                top_k=request.top_k or TOP_K,
                threshold=request.threshold,
                call=call_of(context, request_id, self._application.limits, truncate=request.truncate),
            )
            context.set_trailing_metadata(
                (("server-timing", render.server_timing(result.timings, result.total_ms)), ("x-request-id", request_id))
            )
            return _response(request, result)

        return await answer(context, request_id, work)


def _response(request: pb.ClassifyRequest, result: Classification) -> pb.ClassifyResponse:
    """One result per item; a request of one item raises that item's error."""
    only = result.outcomes[0] if len(result.outcomes) == 1 else None
    if isinstance(only, Failed):
        raise only.error
    return pb.ClassifyResponse(
        model=result.model.name,
        version=result.model.version,
        results=[
            _result(index, item.id, outcome)
            for index, (item, outcome) in enumerate(zip(request.items, result.outcomes, strict=True))
        ],
    )


def _result(index: int, id_: str, outcome: Outcome[Classified]) -> pb.ClassifyResult:
    match outcome:
        case Ok(value):
            classes = [pb.Class(index=c.index, label=c.label, score=c.score) for c in value.classes]
            return pb.ClassifyResult(index=index, id=id_, classes=pb.Classes(classes=classes))
        case Failed(error):
            return pb.ClassifyResult(index=index, id=id_, error=error_to_wire(error))
