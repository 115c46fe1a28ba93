"""What to segment, of JSON: strictly, and what is wrong is told with its place."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from math import isqrt
from typing import Any, NoReturn

import orjson

from modelmora.domain.segmentation import Box, Everything, Point, Prompt, check_count, check_points
from modelmora.domain.tensors import Tensor
from modelmora.errors import InvalidInput, ValidationFailed

_PROMPT = ("id", "points", "box", "mask")
_POINT = ("x", "y", "background", "label")
_EVERYTHING = ("points_per_side", "min_score", "min_stability", "min_area")
_POINT_TAKES = "[x, y], [x, y, label] with label 1 or 0 (background), or an object with x, y and perhaps background"
_BOX_TAKES = "[left, top, right, bottom]"


def asked_of(prompts: str, everything: str) -> list[Prompt] | Everything:
    """Of the two fields as they came, of which one is empty. Raises InvalidInput (no JSON), ValidationFailed."""
    whole = _everything(_parsed("everything", everything)) if everything else None
    if whole is None:
        return prompts_of(_parsed("prompts", prompts)) if prompts else []
    if prompts:
        _refuse("everything", "beside prompts", "one of the two")
    return whole


def prompts_of(value: Any) -> list[Prompt]:
    """Of a list of objects; raises ValidationFailed."""
    if not isinstance(value, list):
        _refuse("prompts", _kind(value), "a list of objects")
    check_count(len(value))
    return [_prompt(one, f"prompts[{index}]") for index, one in enumerate(value)]


def _parsed(field: str, value: str) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as cause:
        raise InvalidInput(f"{field} is not JSON: {cause}", field=field, found=value[:40], expected="JSON") from cause


def _everything(value: Any) -> Everything | None:
    """None where it is not wanted."""
    if value is None or value is False:
        return None
    if value is True:
        return Everything()
    _check_object(value, "everything", _EVERYTHING)
    for name in ("points_per_side", "min_area"):
        if name in value and type(value[name]) is not int:
            _refuse(f"everything.{name}", _kind(value[name]), "an integer")
    thresholds = ("min_score", "min_stability")
    numbers = {name: _number(value[name], f"everything.{name}") for name in thresholds if name in value}
    return Everything(**{**value, **numbers})


def _prompt(value: Any, field: str) -> Prompt:
    _check_object(value, field, _PROMPT)
    id_, points, box, mask = (value.get(name) for name in _PROMPT)
    if id_ is not None and not isinstance(id_, str | int):
        _refuse(f"{field}.id", _kind(id_), "a string")
    if points is not None and not isinstance(points, list):
        _refuse(f"{field}.points", _kind(points), "a list of points")
    check_points(len(points or ()), f"{field}.points")
    return Prompt(
        id="" if id_ is None else str(id_),
        points=tuple(_point(one, f"{field}.points[{place}]") for place, one in enumerate(points or ())),
        box=None if box is None else _box(box, f"{field}.box"),
        mask=None if mask is None else _mask(mask, f"{field}.mask"),
    )


def _point(value: Any, field: str) -> Point:
    if isinstance(value, list):
        if len(value) not in (2, 3):
            _refuse(field, f"a list of {len(value)}", _POINT_TAKES)
        x, y, label = (*value, 1)[:3]
        background = False
    else:
        _check_object(value, field, _POINT)
        x, y, label, background = value.get("x"), value.get("y"), value.get("label", 1), value.get("background", False)
    if type(label) is bool or label not in (0, 1):
        _refuse(f"{field}.label", str(label)[:40], "1, or 0 for what is not to be in the mask")
    if type(background) is not bool:
        _refuse(f"{field}.background", _kind(background), "true or false")
    return Point(x=_number(x, f"{field}.x"), y=_number(y, f"{field}.y"), background=background or label == 0)


def _box(value: Any, field: str) -> Box:
    if not isinstance(value, list) or len(value) != 4:
        found = f"a list of {len(value)}" if isinstance(value, list) else _kind(value)
        _refuse(field, found, _BOX_TAKES)
    left, top, right, bottom = (_number(one, f"{field}[{place}]") for place, one in enumerate(value))
    return Box(left=left, top=top, right=right, bottom=bottom)


def _mask(value: Any, field: str) -> Tensor:
    takes = "base64 of square float32 logits, as an earlier answer has them"
    try:
        data = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        _refuse(field, _kind(value), takes)
    side = isqrt(len(data) // 4)
    if not side or 4 * side * side != len(data):
        _refuse(field, f"{len(data)} bytes", takes)
    return Tensor(dtype="float32", shape=(side, side), data=data)


def _number(value: Any, field: str) -> float:
    if type(value) not in (int, float):
        _refuse(field, _kind(value), "a number")
    try:
        return float(value)
    except OverflowError:
        _refuse(field, str(value)[:40], "a number")


def _check_object(value: Any, field: str, known: Collection[str]) -> None:
    if not isinstance(value, dict):
        _refuse(field, _kind(value), "an object")
    unknown = [name for name in value if name not in known]
    if unknown:
        _refuse(f"{field}.{unknown[0][:40]}", "an unknown name", ", ".join(known))


def _refuse(field: str, found: str, expected: str) -> NoReturn:
    raise ValidationFailed(f"{field} is {found}; it takes {expected}", field=field, found=found, expected=expected)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "nothing"}
    return names.get(type(value), "a number")
