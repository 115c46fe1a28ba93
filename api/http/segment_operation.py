"""The OpenAPI description of `/v1/segment`."""

from __future__ import annotations

from typing import Any

from api.http.operations import FAULT, NDJSON, operation
from api.masks import FORMATS
from modelmora.domain.segmentation import POINTS, POINTS_PER_SIDE, PROMPTS

_MASK = {
    "type": "object",
    "required": ["format", "score", "area", "box"],
    "properties": {
        "format": {"type": "string", "enum": list(FORMATS)},
        "rle": {
            "type": "object",
            "description": "COCO's compressed run-length encoding, column by column",
            "properties": {
                "size": {"type": "array", "items": {"type": "integer"}, "description": "height, width"},
                "counts": {"type": "string"},
            },
        },
        "data": {"type": "string", "description": "base64 of a PNG of 1 bit a pixel, or of uint8 (height, width)"},
        "score": {"type": "number", "description": "the predicted overlap with the truth (IoU)"},
        "area": {"type": "integer", "description": "pixels"},
        "box": {"type": "array", "items": {"type": "number"}, "description": "left, top, right, bottom"},
        "stability": {"type": "number", "description": "of everything: overlap at a higher and a lower threshold"},
        "logits": {"type": "string", "description": "base64 of float32 (256, 256), for a later prompt"},
    },
}
_ANSWER = {
    "type": "object",
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "string"},
        "height": {"type": "integer", "description": "of the picture, upright"},
        "width": {"type": "integer"},
        "data": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index"],
                "properties": {
                    "index": {"type": "integer", "description": "of the prompt; of everything the mask's place"},
                    "id": {"type": "string"},
                    "masks": {"type": "array", "items": _MASK, "description": "the best first"},
                    "error": FAULT,
                },
            },
        },
    },
}
_PROMPT = {
    "type": "object",
    "description": "points, a box, an earlier mask; at least a point or a box. In pixels of the upright picture",
    "properties": {
        "id": {"type": "string"},
        "points": {
            "type": "array",
            "maxItems": POINTS,
            "items": {
                "oneOf": [
                    {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 3},
                    {
                        "type": "object",
                        "required": ["x", "y"],
                        "properties": {
                            "x": {"type": "number"},
                            "y": {"type": "number"},
                            "background": {"type": "boolean", "default": False},
                        },
                    },
                ]
            },
        },
        "box": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
        "mask": {"type": "string", "description": "base64 of the `logits` of an earlier answer"},
    },
}
_EVERYTHING = {
    "oneOf": [
        {"type": "boolean"},
        {
            "type": "object",
            "properties": {
                "points_per_side": {"type": "integer", "minimum": 1, "maximum": POINTS_PER_SIDE, "default": 32},
                "min_score": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.88},
                "min_stability": {"type": "number", "minimum": 0, "maximum": 1, "default": 0.95},
                "min_area": {"type": "integer", "minimum": 0, "default": 0},
            },
        },
    ]
}
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["files"],
    "properties": {
        "files": {"type": "string", "format": "binary", "description": "one picture"},
        "model": {"type": "string", "description": "`name` or `name@version`; absent: the default segmentation model"},
        "prompts": {"type": "array", "items": _PROMPT, "maxItems": PROMPTS, "description": "as JSON"},
        "everything": {**_EVERYTHING, "description": "as JSON, instead of prompts"},
        "multimask": {"type": "boolean", "description": "three masks a prompt; absent: for a single point"},
        "format": {"type": "string", "enum": list(FORMATS), "default": FORMATS[0]},
        "logits": {"type": "boolean", "default": False},
    },
}
SEGMENT = operation(
    f"Masks of a picture: for each prompt, or of everything; with `Accept: {NDJSON}` a line as each comes",
    "inference",
    _ANSWER,
    {
        "multipart/form-data": {"schema": _FORM},
        "image/*": {"schema": {"type": "string", "format": "binary", "description": "the fields are in the query"}},
    },
)
