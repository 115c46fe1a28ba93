"""`/v1/segment`: one picture and prompts to masks, in one answer or in lines as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from api import masks, render
from api.core import Core
from api.http.bodies import take_choice
from api.http.forms import field, flag
from api.http.ndjson import MEDIA_TYPE, Lines, line
from api.http.picture_forms import read_pictures
from api.http.presence import Present, Rounds
from api.http.routes import HotRoute, call_of
from api.http.segment_operation import SEGMENT
from api.masks import ANSWER_BYTES, Format
from api.prompts import asked_of
from modelmora.domain.inference import Content
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.domain.segmentation import Everything, MaskOptions, Prompt, Segmented
from modelmora.errors import LimitExceeded, ModelMoraError, ValidationFailed
from modelmora.usecases.admission import slowest
from modelmora.usecases.segment import Part, Segmentation

FIELD_BYTES = 32 * 2**20
"""Of the prompts: an earlier mask takes 350 kB."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to segment and how the masks are to look."""

    asked: Sequence[Prompt] | Everything
    format: Format
    options: MaskOptions

    @property
    def one(self) -> bool:
        """A request of one prompt fails with its status."""
        return not isinstance(self.asked, Everything) and len(self.asked) == 1

    def id_of(self, part: Part) -> dict[str, str]:
        prompts = [] if isinstance(self.asked, Everything) else self.asked
        return {"id": prompts[part.index].id} if prompts and prompts[part.index].id else {}


def segment_routes(core: Core) -> list[HotRoute]:
    """The one route."""
    rounds = Rounds()

    async def segment(request: Request) -> Response:
        application = core.get()
        pictures, form = await read_pictures(request, most_files=2, most_field_bytes=FIELD_BYTES)
        wanted, call = _wanted(form), call_of(request, application)
        ref = field(form, "model") or None
        done = application.segment(ref, _only(pictures), wanted.asked, options=wanted.options, call=call)
        if MEDIA_TYPE in request.headers.get("accept", ""):
            return Lines(_lines(done, wanted), deadline=call.deadline)
        async with Present(request.receive, rounds):
            return await _collected(done, wanted)

    return [HotRoute("/v1/segment", segment, permission="infer", operation=SEGMENT)]


def _only(pictures: Sequence[Outcome[Content]]) -> Outcome[Content]:
    if len(pictures) != 1:
        raise ValidationFailed("this route takes one picture", field="files", found=str(len(pictures)), expected="1")
    return pictures[0]


def _wanted(form: FormData) -> Wanted:
    """Raises InvalidInput, ValidationFailed."""
    multimask = flag(form, "multimask") if field(form, "multimask") else None
    format_ = take_choice({"format": field(form, "format")}, "format", masks.FORMATS)
    return Wanted(
        asked_of(field(form, "prompts"), field(form, "everything")),
        next(known for known in masks.FORMATS if known == format_),
        MaskOptions(multimask=multimask, logits=flag(form, "logits")),
    )


async def _collected(done: Segmentation, wanted: Wanted) -> Response:
    """200 with one outcome per prompt, in their order."""
    rows, outcomes, total_ms, taken = dict[int, dict[str, Any]](), list[Outcome[Segmented]](), 0.0, 0
    async with aclosing(done.parts):
        async for part in done.parts:
            row = rows[part.index] = await _row(part, wanted)
            outcomes.append(part.outcome)
            total_ms, taken = part.total_ms, taken + masks.size_of(row.get("masks", ()))
            if taken > ANSWER_BYTES:
                raise masks.too_much("all masks together", ANSWER_BYTES)
    size = next((outcome.value for outcome in outcomes if isinstance(outcome, Ok)), None)
    body = {
        "model": done.model.name,
        "version": done.model.version,
        "height": size.height if size else None,
        "width": size.width if size else None,
        "data": [rows[index] for index in sorted(rows)],
    }
    headers = {"server-timing": render.server_timing(slowest(outcomes), total_ms)}
    return Response(render.to_json(body), 200, headers, "application/json")


async def _lines(done: Segmentation, wanted: Wanted) -> AsyncGenerator[bytes, None]:
    items = failed = 0
    model = {"model": done.model.name, "version": done.model.version}
    async with aclosing(done.parts):
        async for part in done.parts:
            row = await _row(part, wanted)
            items, failed = items + 1, failed + ("error" in row)
            if isinstance(part.outcome, Ok):
                value = part.outcome.value
                timing = render.server_timing(value.timings, part.total_ms)
                row = {**row, "height": value.height, "width": value.width, "server_timing": timing}
            yield line({**model, **row})
    yield line({**model, "done": True, "items": items, "failed": failed})


async def _row(part: Part, wanted: Wanted) -> dict[str, Any]:
    """`{"index", "masks"}` or `{"index", "error"}`; masks that take a while to make are made in a thread."""
    row = {"index": part.index, **wanted.id_of(part)}
    if isinstance(part.outcome, Failed):
        return row | {"error": _fault(part.outcome.error)}
    try:
        if wanted.format == "rle":
            return row | {"masks": masks.to_json(part.outcome.value, "rle")}
        return row | {"masks": await asyncio.to_thread(masks.to_json, part.outcome.value, wanted.format)}
    except LimitExceeded as error:
        if wanted.one:
            raise
        return row | {"error": _fault(error)}


def _fault(error: ModelMoraError) -> dict[str, Any]:
    return render.fault(error.as_fault())
