"""Who asks, and under which condition: the actor, `ETag` and `If-Match`, and what a path may name."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Path
from starlette.requests import Request

from api.http.problems import request_id_of
from modelmora.domain.models import ModelRef
from modelmora.domain.registry.entries import Model, ModelVersion
from modelmora.domain.registry.semver import SemVer
from modelmora.errors import ValidationFailed
from modelmora.usecases.registry import Actor

ANONYMOUS = "anonymous"
NO_ROW = -1
"""What no entry has: a condition that nothing fulfils."""

_TAGS = re.compile(r'\s*(W/)?"([\x21\x23-\x7e]*)"\s*(,|$)')
IF_MATCH: dict[str, Any] = {
    "name": "if-match",
    "in": "header",
    "schema": {"type": "string"},
    "description": "the `ETag` that the entry was read with; 412 where it was changed meanwhile. Absent or `*`: any",
}


def actor_of(request: Request) -> Actor:
    """Whoever asks: nobody is asked who he is yet."""
    return Actor(name=ANONYMOUS, request_id=request_id_of(request))


def etag(entry: Model | ModelVersion) -> dict[str, str]:
    """The header that tells an entry as it is now from what it will be."""
    return {"etag": f'"{entry.row}"'}


async def row_matched(request: Request, read: Callable[[], Awaitable[Model | ModelVersion]]) -> int | None:
    """The row that `If-Match` asks for, None: whatever it is. Where several would do, that which the entry has.

    Raises ValidationFailed for a header that is none, and what reading raises.
    """
    given = ",".join(request.headers.getlist("if-match")).strip()
    if given in ("", "*"):
        return None
    rows = _rows(given)
    if len(rows) == 1:
        return rows.pop()
    found = (await read()).row
    return found if found in rows else NO_ROW


def _rows(given: str) -> set[int]:
    """A tag that is weak, or not one of ours, matches nothing."""
    rows, place = set(), 0
    while place < len(given):
        tag = _TAGS.match(given, place)
        if tag is None:
            raise ValidationFailed(
                "If-Match takes entity tags", field="if-match", found=ascii(given)[:80], expected='an ETag such as "3"'
            )
        place = tag.end()
        rows.add(int(tag[2]) if not tag[1] and re.fullmatch(r"[1-9][0-9]{0,17}", tag[2]) else NO_ROW)
    return rows


# What FastAPI depends on is asynchronous: it would send a plain function to a thread, which takes longer than the rest.
async def _ref(ref: Annotated[str, Path(description="a model's name or id")]) -> str:
    """Raises ValidationFailed for what is neither."""
    if ModelRef.parse(ref).version is not None:
        raise ValidationFailed("this names a version, not a model", field="model", found=ref[:80], expected="a name")
    return ref


async def _version(version: Annotated[str, Path(description="a semantic version")]) -> str:
    """Raises ValidationFailed for what is none."""
    return str(SemVer(version))


async def _other(other: Annotated[str, Path(description="another version of the same model")]) -> str:
    """Raises ValidationFailed for what is none."""
    return str(SemVer(other))


Ref = Annotated[str, Depends(_ref)]
Version = Annotated[str, Depends(_version)]
Other = Annotated[str, Depends(_other)]
