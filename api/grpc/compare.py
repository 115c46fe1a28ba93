"""The RPC `Compare`."""

from __future__ import annotations

from api import render
from api.grpc.messages import call_of, content_of, embedding_result, request_id_of
from api.grpc.statuses import Context, answer
from api.tensors import vector_of
from modelmora.domain.outcome import Failed, Ok
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc
from modelmora.usecases.application import Application
from modelmora.usecases.compare import Compared, Comparison, Comparisons
from modelmora.wire import error_to_wire


class CompareServicer(inference_pb2_grpc.ModelInferenceServicer):
    """Its part of the inference service."""

    _application: Application

    async def Compare(self, request: pb.CompareRequest, context: Context) -> pb.CompareResponse:
        request_id = request_id_of(context)

        async def work() -> pb.CompareResponse:
            call = call_of(context, request_id, self._application.limits, truncate=request.truncate)
            items = [content_of(item) for item in request.items]
            result = await self._application.compare(list(request.models), items, call=call)
            timing = render.server_timing(result.timings, result.total_ms)
            context.set_trailing_metadata((("server-timing", timing), ("x-request-id", request_id)))
            return _response(request, result)

        return await answer(context, request_id, work)


def _response(request: pb.CompareRequest, result: Comparisons) -> pb.CompareResponse:
    """An outcome a model; a comparison of one model has its status, or that of its only item."""
    error = result.sole_error()
    if error is not None:
        raise error
    ids = [item.id for item in request.items]
    return pb.CompareResponse(comparisons=[_comparison(one, ids) for one in result.models])


def _comparison(one: Comparison, ids: list[str]) -> pb.Comparison:
    """Of a model that failed as a whole the name that was asked for."""
    match one.outcome:
        case Ok(value):
            return _compared(value, ids)
        case Failed(error):
            return pb.Comparison(model=one.name, error=error_to_wire(error))


def _compared(value: Compared, ids: list[str]) -> pb.Comparison:
    answer = value.answer
    return pb.Comparison(
        model=answer.model.name,
        version=answer.model.version,
        results=[
            embedding_result(index, id_, outcome)
            for index, (id_, outcome) in enumerate(zip(ids, answer.outcomes, strict=True))
        ],
        dimension=value.dimension,
        bytes=value.bytes,
        server_timing=render.server_timing(answer.timings, answer.total_ms),
        similarities=vector_of(value.similarities),
    )
