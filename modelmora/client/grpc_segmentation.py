"""What to segment as a gRPC message, and the masks of an answer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from modelmora.client import grpc_messages as messages
from modelmora.client.answers import Answer
from modelmora.client.grpc_tensors import array_of, vector_of
from modelmora.client.segmentation import Mask, Segmentation
from modelmora.domain.inference import Image
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.segmentation import Box, Everything, MaskOptions, Point, Prompt
from modelmora.errors import ModelMoraError
from modelmora.proto import inference_pb2 as pb

_LEAST = sys.float_info.min
"""A threshold of 0, which as such would mean the usual one."""


def segment_request(
    image: Image, asked: Sequence[Prompt] | Everything, *, options: MaskOptions, model: str | None
) -> pb.SegmentRequest:
    """The request for masks as run lengths."""
    request = pb.SegmentRequest(
        model=model or "",
        image=image.data,
        format=pb.MASK_FORMAT_RLE,
        logits=options.logits,
        multimask=options.multimask,
    )
    if isinstance(asked, Everything):
        request.everything.points_per_side = asked.points_per_side
        request.everything.min_score = asked.min_score or _LEAST
        request.everything.min_stability = asked.min_stability or _LEAST
        request.everything.min_area = asked.min_area
    else:
        request.prompts.extend(map(_prompt, asked))
    return request


def segmented(response: pb.SegmentResponse) -> Outcome[Segmentation]:
    """What became of one prompt, or a mask of everything."""
    if response.HasField("error"):
        return Failed(messages.error_from(response.error))
    answer = Answer(model=response.model, version=response.version, server_timing=response.server_timing)
    height, width = response.height, response.width
    try:
        masks = tuple(_mask(mask, height, width) for mask in response.masks)
    except ModelMoraError as error:
        return Failed(error)
    return Ok(Segmentation(masks=masks, height=height, width=width, **answer.told))


def _prompt(prompt: Prompt) -> pb.Prompt:
    return pb.Prompt(
        id=prompt.id,
        points=[_point(point) for point in prompt.points],
        box=None if prompt.box is None else _box(prompt.box),
        mask=None if prompt.mask is None else vector_of(prompt.mask),
    )


def _point(point: Point) -> pb.Point:
    return pb.Point(x=point.x, y=point.y, background=point.background)


def _box(box: Box) -> pb.Box:
    return pb.Box(left=box.left, top=box.top, right=box.right, bottom=box.bottom)


def _mask(mask: pb.Mask, height: int, width: int) -> Mask:
    box = mask.box
    return Mask(
        counts=mask.data,
        height=height,
        width=width,
        score=mask.score,
        area=mask.area,
        box=Box(left=box.left, top=box.top, right=box.right, bottom=box.bottom),
        stability=mask.stability or None,
        logits=array_of(mask.logits, "logits") if mask.HasField("logits") else None,
    )
