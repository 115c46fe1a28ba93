"""The fields of a form, which are all texts, as what they stand for."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.datastructures import FormData

from api.http.embed import plain
from modelmora.errors import ValidationFailed

_FLAGS = {"": False, "false": False, "0": False, "true": True, "1": True}


def field(form: FormData, name: str) -> str:
    """The field of a name, empty where there is none."""
    value = form.get(name)
    return plain(value) if isinstance(value, str) else ""


def flag(form: FormData, name: str) -> bool:
    """Raises ValidationFailed."""
    value = field(form, name).lower()
    if value not in _FLAGS:
        raise ValidationFailed(f"{name} is no boolean", field=name, found=value[:40], expected="true or false")
    return _FLAGS[value]


def listed(form: FormData, name: str) -> list[Any]:
    """The fields of a name, in order; a single one may be a list in JSON."""
    values = [value for value in form.getlist(name) if isinstance(value, str)]
    if len(values) == 1 and values[0].startswith("["):
        try:
            parsed = orjson.loads(values[0])
        except orjson.JSONDecodeError:
            return values
        return parsed if isinstance(parsed, list) else values
    return [plain(value) for value in values]
