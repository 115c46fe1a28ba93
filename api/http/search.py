"""`/v1/search`: kept pictures by words, by a picture, by one of them, by a vector, by several with weights."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api import render, render_pictures
from api.core import Core
from api.http.bodies import json_object
from api.http.operations import MODEL, operation
from api.http.picture_parts import form_query, query_of
from api.http.presence import Present, Rounds
from api.http.registry_operations import ANY, MOMENT, TEXT, maybe, obj, some
from api.http.routes import HotRoute, call_of
from modelmora.domain.pictures.queries import GROUP_SIZE, LIMIT, MOST_OF_GROUP, MOST_PARTS, SearchQuery
from modelmora.domain.registry.pages import MOST
from modelmora.usecases.application import Application


def search_routes(core: Core) -> list[HotRoute]:
    """The one route."""
    rounds = Rounds()

    async def search(request: Request) -> Response:
        application = core.get()
        query, call = await _query(request, application), call_of(request, application)
        async with Present(request.receive, rounds):
            found = await application.kept.search(query, call=call)
        headers = {"server-timing": render_pictures.search_timing(found)}
        return Response(render.to_json(render_pictures.found(found)), 200, headers, "application/json")

    return [HotRoute("/v1/search", search, permission="infer", operation=SEARCH)]


async def _query(request: Request, application: Application) -> SearchQuery:
    """Raises what is wrong with it, before anything is embedded."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "multipart/form-data":
        with application.decoding.admitted(_declared(request)):
            return query_of(await json_object(request))
    async with request.form(max_files=MOST_PARTS, max_fields=64, max_part_size=2**20) as form:
        return await form_query(form)


def _declared(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdigit() and len(length) < 18 else 0


_PICTURE = {"type": "string", "description": "a picture as base64 or as a data URI"}
_VECTOR = {"type": "array", "items": {"type": "number"}, "description": "as long as the model's vectors are"}
_CONTENTS = {"text": TEXT, "image": _PICTURE, "id": {**TEXT, "description": "of a kept picture"}, "vector": _VECTOR}
_WEIGHT = {"type": "number", "default": 1, "description": "a negative one leads away"}
_FILTER = {
    "type": "object",
    "additionalProperties": False,
    "description": "all of it must hold",
    "properties": {
        "tags": {
            "oneOf": [
                {**some(TEXT), "description": "one of them"},
                obj(any=some(TEXT), all=some(TEXT), none=some(TEXT)),
            ]
        },
        "metadata": {**ANY, "description": "key: a value, a list of which one holds, or a range {gt, gte, lt, lte}"},
        "ids": some(TEXT),
        "created_after": MOMENT,
        "created_before": MOMENT,
    },
}
_OPTIONS = {
    "limit": {"type": "integer", "minimum": 1, "maximum": MOST, "default": LIMIT},
    "cursor": {**TEXT, "description": "`next_cursor` of the page before, with the same question"},
    "filter": _FILTER,
    "score_threshold": {"type": "number", "description": "the least cosine"},
    "model": MODEL,
    "collection": {**TEXT, "default": "default"},
    "exact": {"type": "boolean", "default": False, "description": "without the graph that makes large indexes quick"},
    "group_by": {**TEXT, "description": "a key of metadata: `groups` are answered instead of `results`"},
    "group_size": {"type": "integer", "minimum": 1, "maximum": MOST_OF_GROUP, "default": GROUP_SIZE},
}
_HIT = obj(
    id=TEXT, score={"type": "number", "description": "the cosine"}, filename=TEXT, tags=some(TEXT), metadata=ANY,
    thumbnail={**TEXT, "description": "its path"}, content_type=TEXT, created_at=MOMENT,
)  # fmt: skip
_QUERIES: dict[str, Any] = {
    "type": "array",
    "maxItems": MOST_PARTS,
    "items": {"type": "object", "properties": {**_CONTENTS, "weight": _WEIGHT}, "additionalProperties": False},
}
_FORM = {**_CONTENTS, "image": {"type": "string", "format": "binary"}, "queries": {**TEXT, "description": "JSON"}}
SEARCH = operation(
    "Kept pictures that are like words, a picture, a kept one, a vector, or several with weights",
    "pictures",
    obj(
        results=some(_HIT), groups=some(obj(value={}, results=some(_HIT))), next_cursor=maybe(TEXT),
        model={**TEXT, "description": "`name@version` of the index that was asked"},
    ),
    {
        "application/json": {"schema": obj(**_CONTENTS, queries=_QUERIES, **_OPTIONS)},
        "multipart/form-data": {"schema": obj(**_FORM, **_OPTIONS)},
    },
)  # fmt: skip
