"""`modelmora.v1.ModelManagement`: the model use cases over gRPC."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast, get_args

from api.grpc.messages import request_id_of
from api.grpc.statuses import Context, answer
from modelmora.domain.models import ModelType
from modelmora.errors import ValidationFailed
from modelmora.ports import ModelReport
from modelmora.proto import management_pb2 as pb
from modelmora.proto import management_pb2_grpc
from modelmora.usecases.application import Application
from modelmora.usecases.models import ModelStatus

R = TypeVar("R")


class ManagementServicer(management_pb2_grpc.ModelManagementServicer):
    """The model half of the gRPC face."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        async def work() -> pb.ListModelsResponse:
            statuses = self._application.models.list(_type(request.type))
            return pb.ListModelsResponse(models=[_model(status) for status in statuses])

        return await _answer(context, work)

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.Model:
        async def work() -> pb.Model:
            return _model(self._application.models.get(request.model))

        return await _answer(context, work)

    async def LoadModel(self, request: pb.LoadModelRequest, context: Context) -> pb.ModelReport:
        return await self._change(request.model, context, self._application.models.load)

    async def UnloadModel(self, request: pb.UnloadModelRequest, context: Context) -> pb.ModelReport:
        return await self._change(request.model, context, self._application.models.unload)

    async def WarmupModel(self, request: pb.WarmupModelRequest, context: Context) -> pb.ModelReport:
        return await self._change(request.model, context, self._application.models.warmup)

    async def _change(self, model: str, context: Context, do: Callable[..., Awaitable[ModelReport]]) -> pb.ModelReport:
        async def work() -> pb.ModelReport:
            remaining = context.time_remaining()
            limit = self._application.limits.timeout_ms / 1e3
            return _report(await do(model, deadline=time.monotonic() + (limit if remaining is None else remaining)))

        return await _answer(context, work)


async def _answer(context: Context, work: Callable[[], Awaitable[R]]) -> R:
    return await answer(context, request_id_of(context), work)


def _type(text: str) -> ModelType | None:
    if text and text not in get_args(ModelType):
        raise ValidationFailed(
            "no such model type", field="type", found=text[:40], expected=", ".join(get_args(ModelType))
        )
    return cast(ModelType, text) if text else None


def _model(status: ModelStatus) -> pb.Model:
    spec = status.spec
    return pb.Model(
        name=spec.name,
        version=spec.version,
        type=spec.type,
        provider=spec.provider,
        source=spec.source,
        group=spec.group,
        default=spec.default,
        device=spec.device,
        precision=spec.precision,
        engine=spec.engine,
        state=status.state,
        bytes=status.bytes,
        workers=status.workers,
        error=status.error or "",
    )


def _report(value: ModelReport) -> pb.ModelReport:
    return pb.ModelReport(
        model=value.model,
        version=value.version,
        state=value.state,
        workers=value.workers,
        ms=value.ms,
        bytes=value.bytes,
    )
