"""The RPC `Predict`."""

from __future__ import annotations

from api import render, tensors
from api.grpc.messages import call_of, request_id_of
from api.grpc.statuses import Context, answer
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc
from modelmora.usecases.application import Application


class PredictServicer(inference_pb2_grpc.ModelInferenceServicer):
    """Its part of the inference service."""

    _application: Application

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        request_id = request_id_of(context)

        async def work() -> pb.PredictResponse:
            call = call_of(context, request_id, self._application.limits)
            with self._application.decoding.admitted(request.ByteSize()):
                inputs = tensors.of_proto(request.inputs)
                result = await self._application.predict(
                    request.model or None, inputs, outputs=list(request.outputs), call=call
                )
            timing = render.server_timing(result.timings, result.total_ms)
            context.set_trailing_metadata((("server-timing", timing), ("x-request-id", request_id)))
            return pb.PredictResponse(
                model=result.model.name,
                version=result.model.version,
                outputs=[
                    tensors.to_proto(name, tensor, result.declared.get(name)) for name, tensor in result.outputs.items()
                ],
            )

        return await answer(context, request_id, work)
