"""Keeping and searching pictures over gRPC."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict

from modelmora.client import grpc_messages as messages
from modelmora.client.answers import arrange, lost, promised
from modelmora.client.found import Found, found
from modelmora.client.grpc_connection import GrpcConnection
from modelmora.client.kept import KeptImage, kept_image
from modelmora.client.questions import Part, Question
from modelmora.client.uploading import Parcel, Stored, Terms
from modelmora.domain.inference import Call
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import InternalError, ModelMoraError
from modelmora.proto import inference_pb2 as pb
from modelmora.proto import types_pb2


class GrpcKeeping(GrpcConnection):
    """`UploadImages` and `Search`."""

    async def upload(self, parcels: Sequence[Parcel], *, terms: Terms, call: Call) -> list[Outcome[KeptImage]]:
        try:
            with self._calling("UploadImages", call) as start:
                rpc = start(iter(_requests(parcels, terms)))
                try:
                    rows = [(one.index, _outcome(one)) async for response in rpc for one in response.results]
                finally:
                    rpc.cancel()
            return arrange(len(parcels), rows)
        except ModelMoraError as error:
            return lost(len(parcels), error)

    async def search(self, question: Question, *, call: Call) -> Found:
        response, timing = await self._ask("Search", _search(question), call)
        with promised("what it found"):
            groups = [{"value": json.loads(one.value), "results": _hits(one.results)} for one in response.groups]
            body = {"results": _hits(response.results), "groups": groups}
        told = {"next_cursor": response.next_cursor, "model": response.model}
        return found({**body, **told}, server_timing=timing)


def _requests(parcels: Sequence[Parcel], terms: Terms) -> list[pb.UploadImagesRequest]:
    """What goes for all stands in the first message."""
    common: dict[str, Any] = {
        "collection": terms.collection or "",
        "ttl_s": terms.ttl_s or 0,
        "no_wait": not terms.wait,
    }
    return [_request(one, terms.tags, {} if index else common) for index, one in enumerate(parcels)]


def _request(parcel: Parcel, tags: Sequence[str], common: dict[str, Any]) -> pb.UploadImagesRequest:
    content: dict[str, Any] = (
        {"object": parcel.content.uri} if isinstance(parcel.content, Stored) else {"image": parcel.content}
    )
    metadata = json.dumps(parcel.metadata) if parcel.metadata else ""
    return pb.UploadImagesRequest(filename=parcel.filename, tags=tags, metadata=metadata, **content, **common)


def _outcome(result: pb.UploadResult) -> Outcome[KeptImage]:
    match result.WhichOneof("outcome"):
        case "image":
            return Ok(kept_image(_plain(result.image)))
        case "error":
            return Failed(messages.error_from(result.error))
        case _:
            return Failed(InternalError(f"the server answered item {result.index} with neither picture nor error"))


def _search(question: Question) -> pb.SearchRequest:
    return pb.SearchRequest(
        queries=[_query(part) for part in question.parts],
        limit=question.limit or 0,
        cursor=question.cursor or "",
        filter="" if question.filter is None else json.dumps(question.filter),
        score_threshold=question.score_threshold,
        model=question.model or "",
        collection=question.collection or "",
        exact=question.exact,
        group_by=question.group_by or "",
        group_size=question.group_size or 0,
    )


def _query(part: Part) -> pb.SearchQuery:
    if part.kind != "vector":
        return pb.SearchQuery(**{part.kind: part.value}, weight=part.weight)  # type: ignore[arg-type] # of its kind
    data = part.value if isinstance(part.value, bytes) else b""
    vector = types_pb2.Vector(data=data, dtype=types_pb2.DTYPE_FLOAT32, shape=[len(data) // 4])
    return pb.SearchQuery(vector=vector, weight=part.weight)


def _hits(hits: Sequence[pb.SearchHit]) -> list[dict[str, Any]]:
    return [{**_plain(hit), "score": hit.score, "metadata": json.loads(hit.metadata or "{}")} for hit in hits]


def _plain(message: Any) -> dict[str, Any]:
    told: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return told
