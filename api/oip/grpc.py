"""`inference.GRPCInferenceService`: the protocol over gRPC, with Triton's configuration, repository and streams."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

import structlog

from api import render
from api.grpc.messages import call_of, request_id_of
from api.grpc.statuses import Context, answer
from api.oip.asked import Inferred, check_load_parameters, ref_of
from api.oip.infer import infer, model_of
from api.oip.messages import asked_of, config_of, failed_to, inferred_to, metadata_of
from api.oip.metadata import EXTENSIONS, indexed, state_of
from api.oip.said import retold
from api.oip.stream import spread
from modelmora.domain.inference import Call
from modelmora.errors import ModelMoraError, unexpected
from modelmora.proto import open_inference_pb2 as pb
from modelmora.proto import open_inference_pb2_grpc
from modelmora.usecases.application import Application
from modelmora.usecases.describe import Described

log = structlog.get_logger(__name__)

R = TypeVar("R")


class OpenInferenceServicer(open_inference_pb2_grpc.GRPCInferenceServiceServicer):
    """The face of the Open Inference Protocol."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Context) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Context) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=self._application.health.readiness().ready)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:
        return pb.ServerMetadataResponse(name="modelmora", version=self._application.version, extensions=EXTENSIONS)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:
        async def work() -> pb.ModelReadyResponse:
            status = self._application.models.get(ref_of(request.name, request.version))
            return pb.ModelReadyResponse(ready=state_of(status)[0] == "READY")

        return await _answer(context, request_id_of(context), work)

    async def ModelMetadata(self, request: pb.ModelMetadataRequest, context: Context) -> pb.ModelMetadataResponse:
        async def work() -> pb.ModelMetadataResponse:
            return metadata_of(await self._described(request.name, request.version, context))

        return await _answer(context, request_id_of(context), work)

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Context) -> pb.ModelConfigResponse:
        async def work() -> pb.ModelConfigResponse:
            return pb.ModelConfigResponse(
                config=config_of(await self._described(request.name, request.version, context))
            )

        return await _answer(context, request_id_of(context), work)

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:
        request_id = request_id_of(context)

        async def work() -> pb.ModelInferResponse:
            inferred = await self._inferred(request, call_of(context, request_id, self._application.limits))
            timing = render.server_timing(inferred.timings, inferred.total_ms)
            context.set_trailing_metadata((("server-timing", timing), ("x-request-id", request_id)))
            return inferred_to(inferred, request.id)

        return await _answer(context, request_id, work)

    async def ModelStreamInfer(  # type: ignore[override] # what grpc calls its reader-writer API
        self, request_iterator: AsyncIterator[pb.ModelInferRequest], context: Context
    ) -> None:
        request_id = request_id_of(context)

        async def work() -> None:
            context.set_trailing_metadata((("x-request-id", request_id),))
            call = call_of(context, request_id, self._application.limits, stream=True)
            await spread(request_iterator, lambda request: self._streamed(request, call), context.write, size=_size_of)

        await _answer(context, request_id, work)

    async def _inferred(self, request: pb.ModelInferRequest, call: Call) -> Inferred:
        model = model_of(self._application, ref_of(request.model_name, request.model_version))
        with self._application.decoding.admitted(_size_of(request)):
            return await infer(self._application, model, await asked_of(request), call=call)

    async def _streamed(self, request: pb.ModelInferRequest, call: Call) -> pb.ModelStreamInferResponse:
        """Each inference has the usual time from when it came, and fails alone."""
        own = min(call.deadline, time.monotonic() + self._application.limits.timeout_ms / 1e3)
        try:
            inferred = await self._inferred(request, replace(call, deadline=own))
        except ModelMoraError as error:
            return failed_to(error, request)
        except Exception as cause:
            log.error("item_failed", request_id=call.request_id, exc_info=cause)
            return failed_to(unexpected(), request)
        return pb.ModelStreamInferResponse(infer_response=inferred_to(inferred, request.id))

    async def RepositoryIndex(self, request: pb.RepositoryIndexRequest, context: Context) -> pb.RepositoryIndexResponse:
        async def work() -> pb.RepositoryIndexResponse:
            rows = indexed(self._application.models.list(), ready=request.ready)
            return pb.RepositoryIndexResponse(models=[pb.RepositoryIndexResponse.ModelIndex(**row) for row in rows])

        return await _answer(context, request_id_of(context), work)

    async def RepositoryModelLoad(
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        async def work() -> pb.RepositoryModelLoadResponse:
            check_load_parameters(request.parameters)
            await self._application.models.load(request.model_name, deadline=self._deadline(context))
            return pb.RepositoryModelLoadResponse()

        return await _answer(context, request_id_of(context), work)

    async def RepositoryModelUnload(
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        async def work() -> pb.RepositoryModelUnloadResponse:
            await self._application.models.unload(request.model_name, deadline=self._deadline(context))
            return pb.RepositoryModelUnloadResponse()

        return await _answer(context, request_id_of(context), work)

    async def _described(self, name: str, version: str, context: Context) -> Described:
        return await self._application.describe(ref_of(name, version), deadline=self._deadline(context))

    def _deadline(self, context: Context) -> float:
        remaining = context.time_remaining()
        return time.monotonic() + (self._application.limits.timeout_ms / 1e3 if remaining is None else remaining)


def _size_of(request: pb.ModelInferRequest) -> int:
    return request.ByteSize()


async def _answer(context: Context, request_id: str, work: Callable[[], Awaitable[R]]) -> R:
    """As everywhere; clients of the protocol show nothing but the status's message, so all is said in it."""

    async def telling() -> R:
        try:
            return await work()
        except ModelMoraError as error:
            raise retold(error) from error

    return await answer(context, request_id, telling)
