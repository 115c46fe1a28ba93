"""`/v1/images`: kept pictures looked up, shown and removed."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from pydantic import AwareDatetime, Field
from starlette.responses import Response

from api import render_pictures, render_registry
from api.core import Core
from api.http.image_operations import RECORD, REMOVED
from api.http.registry_bodies import Body, Moment, taken
from api.http.registry_operations import paged, route
from api.http.registry_queries import Pages
from api.http.routes import json_answer
from modelmora.domain.pictures.filters import MOST_IDS, read_ids
from modelmora.domain.pictures.picture import PictureState, checked_collection
from modelmora.domain.registry.texts import check_text
from modelmora.errors import ValidationFailed
from modelmora.ports import PictureQuery
from modelmora.usecases.application import Application
from modelmora.usecases.pictures.pictures import Shown

INLINE = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp"})
"""What browsers draw and do not run; anything else is offered as a file."""
GUARDED = {"x-content-type-options": "nosniff", "content-security-policy": "sandbox; default-src 'none'"}
FRESH_S = 300
"""So long a thumbnail is shown without asking for it again."""


Tags = Annotated[list[str], Field(max_length=64)]


class ImagesAsked(Pages):
    """Pictures of which all that is given holds, the newest first."""

    collection: str | None = None
    state: PictureState | None = None
    tag: Tags = Field(default=[], description="one of them")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    created_before: AwareDatetime | None = None

    def query(self) -> PictureQuery:
        return PictureQuery(
            collection=None if self.collection is None else checked_collection(self.collection),
            state=self.state,
            any_tags=_checked(self.tag),
            sha256=self.sha256,
            created_before=self.created_before,
            page=self.paging("-"),
        )


class Removal(Body):
    """Pictures by their ids, or all of which what is given holds."""

    ids: Annotated[list[str], Field(min_length=1, max_length=MOST_IDS)] | None = None
    collection: str | None = None
    state: PictureState | None = None
    tags: Tags = Field(default=[], description="one of them")
    sha256: str | None = None
    created_before: Moment | None = None

    def query(self) -> PictureQuery:
        """Raises ValidationFailed where everything would be meant."""
        if not self.model_fields_set - {"ids"} or self.state == "deleted":
            expected = "ids, collection, state, tags, sha256 or created_before"
            raise ValidationFailed("it is not said which pictures", field="ids", found="nothing", expected=expected)
        return PictureQuery(
            collection=None if self.collection is None else checked_collection(self.collection),
            state=self.state,
            any_tags=_checked(self.tags),
            sha256=self.sha256,
            created_before=self.created_before,
        )


def image_router(core: Core) -> APIRouter:
    """Below `/v1/images`, but for the upload."""
    router = APIRouter(prefix="/v1/images", tags=["pictures"])
    _add_reading(router, core)
    _add_showing(router, core)
    _add_removing(router, core)
    return router


def _add_reading(router: APIRouter, core: Core) -> None:
    @router.get("", **route("read", paged(RECORD)))
    async def list_images(asked: Annotated[ImagesAsked, Query()]) -> Response:
        """Kept pictures, the newest first."""
        found = await core.get().kept.pictures.find(asked.query())
        return json_answer(render_registry.page(found, render_pictures.record))

    @router.get("/{id}", **route("read", RECORD))
    async def get_image(id: str) -> Response:
        """One picture: what is said of it, and how far it is on its way into each index."""
        return json_answer(render_pictures.record(await core.get().kept.pictures.get(id)))


def _add_showing(router: APIRouter, core: Core) -> None:
    @router.get("/{id}/content", **_picture("image/*"))
    async def get_content(request: Request, id: str) -> Response:
        """The bytes as they came."""
        return _content(request, await core.get().kept.pictures.content(id))

    @router.get("/{id}/thumbnail", **_picture("image/webp"))
    async def get_thumbnail(request: Request, id: str) -> Response:
        """256 pixels at most."""
        known = request.headers.get("if-none-match", "").removeprefix("W/").strip('"')
        shown = await core.get().kept.pictures.thumbnail(id, unless=known or None)
        etag = f'"{shown.sha256 if shown else known}"'
        headers = {**GUARDED, "etag": etag, "cache-control": f"private, max-age={FRESH_S}"}
        if shown is None:
            return Response(status_code=304, headers=headers)
        return Response(shown.data, 200, headers, shown.content_type)


def _add_removing(router: APIRouter, core: Core) -> None:
    @router.delete("/{id}", **route("infer", None, status=204))
    async def remove_image(id: str) -> Response:
        """Everywhere: the record, the vectors, the bytes, what waits and what was given up."""
        await core.get().kept.remove.one(id)
        return Response(status_code=204)

    @router.post("/delete", **route("infer", REMOVED, body=Removal))
    async def remove_images(request: Request) -> Response:
        """By ids, or all of a query."""
        application, body = core.get(), await taken(request, Removal)
        return json_answer({"removed": await _removed(application, body)})


async def _removed(application: Application, body: Removal) -> int:
    remove = application.kept.remove
    if body.ids is None:
        return await remove.where(body.query())
    if body.model_fields_set != {"ids"}:
        others = ", ".join(sorted(body.model_fields_set - {"ids"}))
        raise ValidationFailed("ids stand alone", field="ids", found=others, expected="ids, or a query")
    return await remove(read_ids(body.ids, field="ids"))


def _content(request: Request, shown: Shown) -> Response:
    kind = shown.content_type if shown.content_type in INLINE else "application/octet-stream"
    how = "inline" if shown.content_type in INLINE else "attachment"
    name = f"; filename*=UTF-8''{quote(shown.filename, safe='')}" if shown.filename else ""
    etag = f'"{shown.sha256}"'
    headers = {**GUARDED, "etag": etag, "cache-control": "private, no-cache", "content-disposition": how + name}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(shown.data, 200, headers, kind)


def _checked(tags: list[str]) -> tuple[str, ...]:
    for tag in tags:
        check_text(tag, field="tags")
    return tuple(tags)


def _picture(media: str) -> dict[str, Any]:
    return route("read", {"type": "string", "format": "binary"}, media=media)
