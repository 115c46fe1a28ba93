"""`/v1/embed/batch`: a form with any number of pictures in, one line out for each as it completes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api import render
from api.core import Core
from api.http.bodies import take_choice
from api.http.embed import ENCODINGS, plain
from api.http.multipart import Field, File, parts
from api.http.ndjson import Lines, line
from api.http.operations import EMBED_BATCH
from api.http.routes import HotRoute, call_of
from modelmora.domain.inference import Content, Image
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InvalidInput, LimitExceeded, ValidationFailed
from modelmora.usecases.embed_stream import Entry, Streamed

FIELDS = ("model", "encoding_format", "truncate")
OTHERS = 64


def batch_routes(core: Core) -> list[HotRoute]:
    """The route; its body has no limit as a whole, but each file and the number of files have."""

    async def embed_batch(request: Request) -> Response:
        application = core.get()
        form = _Form(request, application.limits.image_bytes)
        call = call_of(request, application, stream=True)
        return Lines(_lines(application.embed_stream(form.entries(), call=call), form), after=form.over)

    return [HotRoute("/v1/embed/batch", embed_batch, permission="infer", operation=EMBED_BATCH, bounded=False)]


class _Form:
    """The request's form: what it says before its files, and its files as they arrive."""

    def __init__(self, request: Request, max_file_bytes: int) -> None:
        self.encoding = ENCODINGS[0]
        self.over = asyncio.Event()
        self._request = request
        self._max_file_bytes = max_file_bytes
        self._model: str | None = None
        self._truncate = False
        self._files = 0
        self._others: list[str] = []

    async def entries(self) -> AsyncGenerator[Entry, None]:
        """The parts named `files`; raises what is wrong with the form as a whole."""
        for name, value in self._request.query_params.items():
            self._set(name, value)
        kind = self._request.headers.get("content-type", "")
        try:
            async with aclosing(parts(self._request.stream(), kind, max_file_bytes=self._max_file_bytes)) as form:
                async for part in form:
                    if part.name == "files":
                        self._files += 1
                        yield self._entry(part)
                    else:
                        self._note(part)
        finally:
            self.over.set()
        if not self._files:
            found = ", ".join(self._others)[:80] or "nothing"
            raise ValidationFailed(
                "no files in the form", field="files", found=found, expected="at least one part named files"
            )

    def _entry(self, part: Field | File) -> Entry:
        name = part.filename if isinstance(part, File) else ""
        return Entry(content=_content(part), tag=name, model=self._model, truncate=self._truncate)

    def _note(self, part: Field | File) -> None:
        self._others.append(part.name)
        if len(self._others) > OTHERS:
            raise LimitExceeded(
                "the form has too many parts beside its files", field="body", expected=f"at most {OTHERS}"
            )
        if isinstance(part, Field) and part.name in FIELDS:
            if self._files:
                raise ValidationFailed(
                    f"the field {part.name} came after a file, too late for those before it",
                    field=part.name,
                    found=f"after {self._files} files",
                    expected="before the first file, or in the query",
                )
            self._set(part.name, plain(part.value))

    def _set(self, name: str, value: str) -> None:
        match name:
            case "model":
                self._model = value or None
            case "encoding_format":
                self.encoding = take_choice({name: value}, name, ENCODINGS)
            case "truncate":
                self._truncate = take_choice({name: value}, name, ("false", "true")) == "true"


def _content(part: Field | File) -> Outcome[Content]:
    match part:
        case File(content=Ok(data)):
            return Ok(Image(data))
        case File(content=Failed() as failed):
            return failed
    return Failed(InvalidInput("the part `files` has no filename, so it is a text field", field="files"))


async def _lines(results: AsyncGenerator[list[Streamed], None], form: _Form) -> AsyncGenerator[bytes, None]:
    items = failed = 0
    async with aclosing(results):
        async for some in results:
            items += len(some)
            failed += sum(1 for result in some if isinstance(result.outcome, Failed))
            yield b"".join(line(_shown(result, form.encoding)) for result in some)
    yield line({"done": True, "items": items, "failed": failed})


def _shown(result: Streamed, encoding: str) -> dict[str, Any]:
    row: dict[str, Any] = {"index": result.index, "filename": result.tag}
    if result.model is not None:
        row |= {"model": result.model.name, "version": result.model.version}
    match result.outcome:
        case Ok(value):
            timing = render.server_timing(value.timings, result.total_ms)
            return row | {"embedding": render.vector(value.vector, encoding), "server_timing": timing}
        case Failed(error):
            return row | {"error": render.fault(error.as_fault())}
