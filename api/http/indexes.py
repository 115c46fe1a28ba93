"""`/api/v1/indexes`: indexes of vectors, how far they are, which is searched; and models indexed anew."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from api import render_pictures
from api.core import Core
from api.http.image_operations import INDEX
from api.http.registry_bodies import Body, taken_if_any
from api.http.registry_operations import obj, route, some
from api.http.routes import deadline_of, json_answer
from modelmora.domain.pictures.picture import checked_collection

Collection = Annotated[str, Query(description="of pictures")]


class Reindexing(Body):
    """Which version (untold: the current one), of which pictures, and whether searches go to it when it is complete."""

    version: str | None = None
    collection: str = "default"
    switch: Annotated[bool, Field(description="false: it waits to be switched to")] = True


def index_router(core: Core) -> APIRouter:
    """Indexes, and the re-indexing of a model."""
    router = APIRouter(prefix="/api/v1", tags=["indexes"])

    @router.get("/indexes", **route("read", obj(data=some(INDEX))))
    async def list_indexes(collection: str | None = None) -> Response:
        """All of them, or those of a collection."""
        chosen = None if collection is None else checked_collection(collection)
        indexes = await core.get().kept.indexes.all(collection=chosen)
        return json_answer({"data": list(map(render_pictures.index, indexes))})

    @router.get("/indexes/{ref}", **route("read", INDEX))
    async def get_index(ref: str, collection: Collection = "default") -> Response:
        """That of `name@version`, and how far it is."""
        return json_answer(render_pictures.index(await core.get().kept.indexes.get(ref, collection=collection)))

    @router.post("/models/{ref}/reindex", **route("operate", INDEX, status=202, body=Reindexing, body_required=False))
    async def reindex(request: Request, ref: str) -> Response:
        """In the background, while searches go on; then searches go to the new index."""
        application = core.get()
        body = await taken_if_any(request, Reindexing)
        index = await application.kept.indexes.begin(
            ref,
            version=body.version,
            collection=body.collection,
            switch=body.switch,
            deadline=deadline_of(request, application),
        )
        return json_answer(render_pictures.index(index), 202)

    @router.post("/indexes/{ref}/switch", **route("operate", INDEX))
    async def switch(ref: str, collection: Collection = "default") -> Response:
        """Searches go to it from now on; the one before is kept for an hour, for the way back."""
        return json_answer(render_pictures.index(await core.get().kept.indexes.switch(ref, collection=collection)))

    @router.delete("/indexes/{ref}", **route("operate", None, status=204))
    async def drop(ref: str, collection: Collection = "default") -> Response:
        """Refused for the one that searches go to."""
        await core.get().kept.indexes.drop(ref, collection=collection)
        return Response(status_code=204)

    return router
