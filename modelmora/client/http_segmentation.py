"""What to segment as the fields of a form, and the masks of a line."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isqrt
from typing import Any

from modelmora.client.answers import Answer, error_from, promised
from modelmora.client.segmentation import Mask, Segmentation
from modelmora.client.tensors import Array, received
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.segmentation import Box, Everything, MaskOptions, Prompt


def fields_of(asked: Sequence[Prompt] | Everything, *, options: MaskOptions, model: str | None) -> dict[str, str]:
    """Of the form, for masks as run lengths."""
    fields = {"format": "rle", "logits": json.dumps(options.logits)} | ({"model": model} if model else {})
    if options.multimask is not None:
        fields["multimask"] = json.dumps(options.multimask)
    if isinstance(asked, Everything):
        return fields | {"everything": json.dumps(asdict(asked))}
    return fields | {"prompts": json.dumps([_prompt(prompt) for prompt in asked])}


def segmented(line: Mapping[str, Any]) -> tuple[int, Outcome[Segmentation]]:
    """What became of one prompt, or a mask of everything, and its place; raises InternalError."""
    with promised("a line"):
        index = int(line["index"])
        if "error" in line:
            return index, Failed(error_from(line["error"]))
        timing = str(line.get("server_timing", ""))
        answer = Answer(model=str(line["model"]), version=str(line["version"]), server_timing=timing)
        height, width = int(line["height"]), int(line["width"])
        masks = tuple(_mask(mask, height, width) for mask in line["masks"])
        return index, Ok(Segmentation(masks=masks, height=height, width=width, **answer.told))


def _prompt(prompt: Prompt) -> dict[str, Any]:
    told: dict[str, Any] = {"points": [[point.x, point.y, int(not point.background)] for point in prompt.points]}
    if prompt.id:
        told["id"] = prompt.id
    if prompt.box is not None:
        told["box"] = [prompt.box.left, prompt.box.top, prompt.box.right, prompt.box.bottom]
    if prompt.mask is not None:
        told["mask"] = base64.b64encode(prompt.mask.data).decode("ascii")
    return told


def _mask(mask: Mapping[str, Any], height: int, width: int) -> Mask:
    left, top, right, bottom = map(float, mask["box"])
    logits, stability = mask.get("logits"), mask.get("stability")
    return Mask(
        counts=str(mask["rle"]["counts"]).encode("ascii"),
        height=height,
        width=width,
        score=float(mask["score"]),
        area=int(mask["area"]),
        box=Box(left=left, top=top, right=right, bottom=bottom),
        stability=None if stability is None else float(stability),
        logits=None if logits is None else _logits(str(logits)),
    )


def _logits(encoded: str) -> Array:
    """They are square."""
    data = base64.b64decode(encoded, validate=True)
    side = isqrt(len(data) // 4)
    return received("float32", (side, side), data, name="logits")
