"""`Segment` of `modelmora.v1.ModelInference`: one picture and prompts to masks, as they come."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from math import prod
from typing import TypeVar

from api import calls, masks, render
from api.grpc.messages import call_of, request_id_of
from api.grpc.statuses import Context, answer, sent
from api.masks import Format
from api.tensors import vector_of
from modelmora.domain.inference import Image, Timings
from modelmora.domain.models import ModelSpec
from modelmora.domain.outcome import Failed, Ok
from modelmora.domain.segmentation import (
    Box,
    Everything,
    Mask,
    MaskOptions,
    Point,
    Prompt,
    Segmented,
    check_count,
    check_points,
)
from modelmora.domain.tensors import Tensor
from modelmora.errors import LimitExceeded, ModelMoraError, ValidationFailed
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, types_pb2
from modelmora.usecases.application import Application
from modelmora.usecases.segment import Part
from modelmora.wire import error_to_wire

N = TypeVar("N", int, float)

_FORMATS: dict[int, Format] = {
    int(pb.MASK_FORMAT_UNSPECIFIED): "rle",
    int(pb.MASK_FORMAT_RLE): "rle",
    int(pb.MASK_FORMAT_PNG): "png",
    int(pb.MASK_FORMAT_BYTES): "bytes",
}


class SegmentServicer(inference_pb2_grpc.ModelInferenceServicer):
    """The RPC of one use case; who inherits it has the application."""

    _application: Application

    async def Segment(  # type: ignore[override] # what grpc calls its reader-writer API
        self, request: pb.SegmentRequest, context: Context
    ) -> None:
        request_id = request_id_of(context)

        async def work() -> None:
            call = call_of(context, request_id, self._application.limits)
            asked, format_ = _asked(request), _format(request)
            options = MaskOptions(
                multimask=request.multimask if request.HasField("multimask") else None, logits=request.logits
            )
            image = Ok(Image(request.image))
            done = self._application.segment(request.model or None, image, asked, options=options, call=call)
            total_ms, timings = 0.0, Timings()
            async with aclosing(done.parts), calls.within(call.deadline + calls.LAST_WORDS_S):
                async for part in done.parts:
                    await sent(context.write(await _response(request, part, done.model, format_)))
                    total_ms = part.total_ms
                    timings = part.outcome.value.timings if isinstance(part.outcome, Ok) else timings
            told = render.server_timing(timings, total_ms)
            context.set_trailing_metadata((("server-timing", told), ("x-request-id", request_id)))

        await answer(context, request_id, work)


async def _response(request: pb.SegmentRequest, part: Part, model: ModelSpec, format_: Format) -> pb.SegmentResponse:
    """Masks that take a while to make are made in a thread."""
    id_ = request.prompts[part.index].id if request.prompts else ""
    response = pb.SegmentResponse(index=part.index, id=id_, model=model.name, version=model.version)
    if isinstance(part.outcome, Failed):
        return _failed(response, part.outcome.error)
    value = part.outcome.value
    try:
        made = _masks(value, "rle") if format_ == "rle" else await asyncio.to_thread(_masks, value, format_)
    except LimitExceeded as error:
        if len(request.prompts) == 1:
            raise
        return _failed(response, error)
    response.masks.extend(made)
    response.height, response.width = value.height, value.width
    response.server_timing = render.server_timing(value.timings, part.total_ms)
    return response


def _failed(response: pb.SegmentResponse, error: ModelMoraError) -> pb.SegmentResponse:
    response.error.CopyFrom(error_to_wire(error))
    return response


def _masks(value: Segmented, format_: Format) -> list[pb.Mask]:
    masks.check_room(value, format_)
    return [_mask(mask, masks.encoded(mask, format_, height=value.height, width=value.width)) for mask in value.masks]


def _mask(mask: Mask, data: bytes) -> pb.Mask:
    box = pb.Box(left=mask.box.left, top=mask.box.top, right=mask.box.right, bottom=mask.box.bottom)
    return pb.Mask(
        data=data,
        score=mask.score,
        stability=mask.stability or 0.0,
        area=mask.area,
        box=box,
        logits=None if mask.logits is None else vector_of(mask.logits),
    )


def _asked(request: pb.SegmentRequest) -> list[Prompt] | Everything:
    if not request.HasField("everything"):
        check_count(len(request.prompts))
        return [_prompt(prompt, f"prompts[{index}]") for index, prompt in enumerate(request.prompts)]
    if request.prompts:
        raise ValidationFailed(
            "everything beside prompts", field="everything", found="beside prompts", expected="one of the two"
        )
    given, usual = request.everything, Everything()
    return Everything(
        points_per_side=_or(given.points_per_side, usual.points_per_side),
        min_score=_or(given.min_score, usual.min_score),
        min_stability=_or(given.min_stability, usual.min_stability),
        min_area=given.min_area,
    )


def _prompt(prompt: pb.Prompt, field: str) -> Prompt:
    box = prompt.box
    check_points(len(prompt.points), f"{field}.points")
    return Prompt(
        id=prompt.id,
        points=tuple(Point(x=point.x, y=point.y, background=point.background) for point in prompt.points),
        box=Box(left=box.left, top=box.top, right=box.right, bottom=box.bottom) if prompt.HasField("box") else None,
        mask=_earlier(prompt.mask, f"{field}.mask") if prompt.HasField("mask") else None,
    )


def _earlier(mask: types_pb2.Vector, field: str) -> Tensor:
    if mask.dtype not in (types_pb2.DTYPE_UNSPECIFIED, types_pb2.DTYPE_FLOAT32):
        raise ValidationFailed(
            "an earlier mask is float32", field=f"{field}.dtype", found=str(mask.dtype), expected="DTYPE_FLOAT32"
        )
    if len(mask.shape) != 2:
        found = f"{len(mask.shape)} axes"
        raise ValidationFailed("an earlier mask has two axes", field=f"{field}.shape", found=found, expected="2 axes")
    shape, size = tuple(mask.shape), len(mask.data)
    if size != 4 * prod(shape):
        said, expected = "an earlier mask has 4 bytes a pixel", f"{4 * prod(shape)} bytes for {shape[0]}x{shape[1]}"
        raise ValidationFailed(said, field=f"{field}.data", found=f"{size} bytes", expected=expected)
    return Tensor(dtype="float32", shape=shape, data=mask.data)


def _format(request: pb.SegmentRequest) -> Format:
    if request.format not in _FORMATS:
        raise ValidationFailed(
            "no such format", field="format", found=str(request.format), expected="a value of MaskFormat"
        )
    return _FORMATS[request.format]


def _or(given: N, usual: N) -> N:
    return given if given else usual
