"""`POST /v1/images`: pictures to keep, as files of a form, as the body, or by where they lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api import calls, render, render_pictures
from api.core import Core
from api.http.bodies import object_of
from api.http.embed import plain
from api.http.image_operations import UPLOAD
from api.http.multipart import File, parts
from api.http.picture_parts import json_of, listed_tags, refuse_others, told_flag, told_whole
from api.http.presence import Present, Rounds
from api.http.routes import HotRoute, call_of
from modelmora.domain.inference import Call
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InvalidInput, LimitExceeded, UnsupportedMedia, ValidationFailed
from modelmora.usecases.admission import Limits, too_large
from modelmora.usecases.application import Application
from modelmora.usecases.pictures.arrivals import Arrival, Object, Terms
from modelmora.usecases.pictures.kept import Kept

FIELDS = ("tags", "metadata", "collection", "ttl_s", "wait")
FIELD_BYTES, JSON_BYTES = 2**20, 4 * 2**20
"""Of one field of a form, and of a body that names objects."""


def upload_routes(core: Core) -> list[HotRoute]:
    """The route; its body has no limit as a whole, but each file and the number of files have."""
    rounds = Rounds()

    async def upload(request: Request) -> Response:
        application = core.get()
        brought = _Brought(request, application.limits)
        call, most = _call(request, application), application.limits.items
        outcomes: list[Outcome[Kept]] = []
        async with Present(request.receive, rounds, after=brought.over):
            stream = application.kept.upload(brought.arrivals(), brought.terms, call=call, most=most)
            async with aclosing(stream) as windows:
                async for window in windows:
                    outcomes += [one.outcome for one in window]
        return _answer(outcomes)

    return [HotRoute("/v1/images", upload, permission="infer", operation=UPLOAD, bounded=False)]


def _answer(outcomes: Sequence[Outcome[Kept]]) -> Response:
    """One picture has its own status: 201 it is found from now on, 200 it was there, 202 it will be found."""
    only = outcomes[0] if len(outcomes) == 1 else None
    if isinstance(only, Failed):
        raise only.error
    kept = [outcome.value for outcome in outcomes if isinstance(outcome, Ok)]
    status = 201 if only is not None and not only.value.duplicate else 200
    status = 202 if any(one.under_way for one in kept) else status
    rows = [render_pictures.uploaded(index, outcome) for index, outcome in enumerate(outcomes)]
    return Response(render.to_json({"data": rows}), status, media_type="application/json")


def _call(request: Request, application: Application) -> Call:
    """A body of any length has no deadline of its own; who brings pictures waits for them."""
    call = call_of(request, application, stream=True)
    return call if calls.PRIORITY in request.headers else replace(call, priority="interactive")


class _Brought:
    """What a request brings: what it says of all its pictures, and these as they arrive."""

    def __init__(self, request: Request, limits: Limits) -> None:
        self.over = asyncio.Event()
        self._request = request
        self._max_file_bytes = limits.image_bytes
        self._most = limits.items
        self._said: dict[str, list[Any]] = {}
        self._agreed = False
        self._files = 0

    async def arrivals(self) -> AsyncGenerator[Arrival, None]:
        """Raises what is wrong with the request as a whole."""
        for name, value in self._request.query_params.multi_items():
            self._say(name, value)
        kind = self._request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            match kind:
                case "multipart/form-data":
                    async for arrival in self._files_of_form():
                        yield arrival
                case "application/json":
                    for arrival in await self._objects():
                        yield arrival
                case _ if kind.startswith("image/") or kind == "application/octet-stream":
                    yield await self._body(self._max_file_bytes)
                case _:
                    expected = "multipart/form-data, application/json, image/* or application/octet-stream"
                    said = "this route takes a form with `files`, a picture as the body, or JSON with `objects`"
                    raise UnsupportedMedia(said, field="content-type", found=kind[:80] or "none", expected=expected)
        finally:
            self.over.set()

    def terms(self) -> Terms:
        """What was said until now; from now on it is too late to say more."""
        self._agreed = True
        said = {name: values[-1] for name, values in self._said.items()}
        metadata = said.get("metadata")
        metadata = json_of(metadata, "metadata") if isinstance(metadata, str) and metadata else metadata
        each = metadata if isinstance(metadata, list) else []
        if self.over.is_set() and each and len(each) != self._files:
            found, expected = f"{len(each)} of them", f"{self._files}, one a picture, or an object for all"
            raise ValidationFailed("metadata is not of all pictures", field="metadata", found=found, expected=expected)
        return Terms(
            collection=_text(said.get("collection"), "collection") or "default",
            tags=listed_tags(self._said.get("tags", ())),
            metadata={} if each else _object(metadata or {}),
            each=[_object(one) for one in each],
            ttl_s=told_whole(said.get("ttl_s"), "ttl_s"),
            wait=told_flag(said.get("wait"), "wait", usual=True),
        )

    async def _files_of_form(self) -> AsyncGenerator[Arrival, None]:
        kind, others = self._request.headers.get("content-type", ""), 0
        form = parts(self._request.stream(), kind, max_file_bytes=self._max_file_bytes, max_field_bytes=FIELD_BYTES)
        async with aclosing(form):
            async for part in form:
                if part.name == "files":
                    self._files += 1
                    yield _arrival(part)
                elif isinstance(part, File):
                    others += 1
                else:
                    self._say(part.name, plain(part.value))
        if not self._files:
            found = f"{others} files of other names" if others else "none"
            expected = "at least one part named files"
            raise ValidationFailed("no files in the form", field="files", found=found, expected=expected)

    async def _objects(self) -> list[Arrival]:
        body = object_of(await self._read(JSON_BYTES))
        refuse_others(body, ("objects", *FIELDS))
        objects = body.get("objects")
        if not isinstance(objects, list) or not objects or not all(isinstance(one, str) for one in objects):
            found, expected = repr(objects)[:80], "a list of names such as s3://bucket/key"
            raise ValidationFailed("objects is no list of names", field="objects", found=found, expected=expected)
        if len(objects) > self._most:
            found, expected = str(len(objects)), f"at most {self._most}"
            raise LimitExceeded(f"{found} objects in one request", field="objects", found=found, expected=expected)
        self._said |= {name: [body[name]] for name in FIELDS if body.get(name) is not None}
        self._files = len(objects)
        return [Arrival(content=Ok(Object(name)), filename=name.rpartition("/")[2]) for name in objects]

    async def _body(self, most: int) -> Arrival:
        self._files = 1
        try:
            return Arrival(content=Ok(await self._read(most)), filename="")
        except LimitExceeded:
            return Arrival(content=too_large("picture file", field="image", found=most + 1, limit=most, unit="bytes"))

    async def _read(self, most: int) -> bytes:
        """Raises LimitExceeded as soon as there is more."""
        body = bytearray()
        async for chunk in self._request.stream():
            body += chunk
            if len(body) > most:
                expected = f"at most {most} bytes"
                raise LimitExceeded("the request body is too large", field="body", expected=expected)
        return bytes(body)

    def _say(self, name: str, value: str) -> None:
        if name not in FIELDS:
            return
        if self._agreed:
            said, found = f"the field {name} came too late for the pictures before it", f"after {self._files} files"
            raise ValidationFailed(said, field=name, found=found, expected="before the first file, or in the query")
        self._said.setdefault(name, []).append(value)


def _arrival(part: Any) -> Arrival:
    if isinstance(part, File):
        return Arrival(content=part.content, filename=part.filename)
    failed = Failed(InvalidInput("the part `files` has no filename, so it is a text field", field="files"))
    return Arrival(content=failed)


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    found, expected = repr(value)[:80], "a JSON object, or a list of one for each picture"
    raise ValidationFailed("metadata is no object", field="metadata", found=found, expected=expected)


def _text(value: Any, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise ValidationFailed(f"{name} is no string", field=name, found=repr(value)[:80], expected="a string")
