"""`Search` of `modelmora.v1.ModelInference`: kept pictures by likeness."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from api import render, render_pictures
from api.grpc.messages import call_of, request_id_of
from api.grpc.statuses import Context, answer
from modelmora.domain.inference import Image, Text, Vector
from modelmora.domain.pictures.filters import read_filter
from modelmora.domain.pictures.queries import GROUP_SIZE, LIMIT, Like, Part, PartContent, SearchQuery
from modelmora.domain.pictures.search import Filter, Hit
from modelmora.errors import InvalidInput, ValidationFailed
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import inference_pb2_grpc, types_pb2
from modelmora.usecases.application import Application
from modelmora.usecases.pictures.search import Found


class SearchServicer(inference_pb2_grpc.ModelInferenceServicer):
    """The RPC of one use case; who inherits it has the application."""

    _application: Application

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        request_id = request_id_of(context)

        async def work() -> pb.SearchResponse:
            call = call_of(context, request_id, self._application.limits)
            found = await self._application.kept.search(_query(request), call=call)
            timing = render_pictures.search_timing(found)
            context.set_trailing_metadata((("server-timing", timing), ("x-request-id", request_id)))
            return _response(found)

        return await answer(context, request_id, work)


def _query(request: pb.SearchRequest) -> SearchQuery:
    """Raises ValidationFailed, InvalidInput, LimitExceeded."""
    return SearchQuery(
        parts=tuple(_part(index, query) for index, query in enumerate(request.queries)),
        limit=request.limit or LIMIT,
        cursor=request.cursor or None,
        filter=_filter(request.filter),
        score_threshold=request.score_threshold if request.HasField("score_threshold") else None,
        model=request.model or None,
        collection=request.collection or "default",
        exact=request.exact,
        group_by=request.group_by or None,
        group_size=request.group_size or GROUP_SIZE,
    )


def _part(index: int, query: pb.SearchQuery) -> Part:
    return Part(content=_content(index, query), weight=query.weight if query.HasField("weight") else 1.0)


def _content(index: int, query: pb.SearchQuery) -> PartContent:
    match query.WhichOneof("content"):
        case "text":
            return Text(query.text)
        case "image":
            return Image(query.image)
        case "id":
            return Like(query.id)
        case "vector":
            return _vector(index, query.vector)
    place, expected = f"queries.{index}", "text, image, id or vector"
    raise ValidationFailed("a part has one content", field=place, found="nothing", expected=expected)


def _vector(index: int, vector: types_pb2.Vector) -> Vector:
    plain = vector.dtype in (types_pb2.DTYPE_UNSPECIFIED, types_pb2.DTYPE_FLOAT32)
    if not plain or not vector.data or len(vector.data) % 4:
        found, place = f"{len(vector.data)} bytes", f"queries.{index}.vector"
        raise ValidationFailed("not a vector of float32", field=place, found=found, expected="4 bytes a number")
    return Vector(vector.data)


def _filter(text: str) -> Filter:
    try:
        return read_filter(orjson.loads(text) if text else None)
    except orjson.JSONDecodeError as cause:
        raise InvalidInput(f"filter is not JSON: {cause}", field="filter", found=text[:40], expected="JSON") from cause


def _response(found: Found) -> pb.SearchResponse:
    groups = [pb.SearchGroup(value=_json(group.value), results=_hits(group.hits)) for group in found.groups or ()]
    return pb.SearchResponse(
        results=_hits(found.hits), groups=groups, next_cursor=found.next_cursor or "", model=found.model
    )


def _hits(hits: Iterable[Hit]) -> list[pb.SearchHit]:
    rows = [render_pictures.hit(hit) for hit in hits]
    return [pb.SearchHit(**{**row, "metadata": _json(row["metadata"])}) for row in rows]


def _json(value: Any) -> str:
    return render.to_json(value).decode()
