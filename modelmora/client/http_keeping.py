"""Keeping and searching pictures over HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from modelmora.client.answers import arrange, error_from, lost, promised
from modelmora.client.found import Found, found
from modelmora.client.http_calls import HttpCalls
from modelmora.client.http_connection import json_of
from modelmora.client.kept import KeptImage, kept_image
from modelmora.client.questions import Part, Question, numbers
from modelmora.client.uploading import Parcel, Stored, Terms
from modelmora.domain.inference import Call
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import ModelMoraError

OPTIONS = ("limit", "cursor", "filter", "score_threshold", "model", "collection", "group_by", "group_size")


class HttpKeeping(HttpCalls):
    """`/v1/images` and `/v1/search`."""

    async def upload(self, parcels: Sequence[Parcel], *, terms: Terms, call: Call) -> list[Outcome[KeptImage]]:
        """What is brought goes in a form, what lies in a store is named in JSON, side by side."""
        stored = [index for index, parcel in enumerate(parcels) if isinstance(parcel.content, Stored)]
        brought = [index for index, parcel in enumerate(parcels) if not isinstance(parcel.content, Stored)]
        of_stored, of_brought = await asyncio.gather(
            self._kept([parcels[index] for index in stored], _named, terms, call),
            self._kept([parcels[index] for index in brought], _form, terms, call),
        )
        numbered = [*zip(stored, of_stored, strict=True), *zip(brought, of_brought, strict=True)]
        return arrange(len(parcels), numbered)

    async def search(self, question: Question, *, call: Call) -> Found:
        body: dict[str, Any] = {"queries": [_query(part) for part in question.parts], "exact": question.exact}
        body |= {name: value for name in OPTIONS if (value := getattr(question, name)) is not None}
        response = await self._send("/v1/search", call, json=body)
        return found(json_of(response), server_timing=response.headers.get("server-timing", ""))

    async def _kept(
        self, parcels: Sequence[Parcel], content_of: Any, terms: Terms, call: Call
    ) -> list[Outcome[KeptImage]]:
        if not parcels:
            return []
        try:
            response = await self._send("/v1/images", call, **content_of(parcels, terms))
            with promised("what became of pictures"):
                rows = [(int(row["index"]), _outcome(row)) for row in json_of(response)["data"]]
            return arrange(len(parcels), rows)
        except ModelMoraError as error:  # also that of an only picture: a request of one item has its status
            return lost(len(parcels), error)


def _form(parcels: Sequence[Parcel], terms: Terms) -> dict[str, Any]:
    """What is said comes before the pictures: the server keeps each as it arrives."""
    data: dict[str, Any] = {"metadata": json.dumps(_metadata(parcels, terms)), "wait": json.dumps(terms.wait)}
    data |= {"tags": json.dumps(terms.tags)} if terms.tags else {}
    data |= {name: str(value) for name, value in _further(terms).items()}
    files = [("files", (one.filename, one.content, "application/octet-stream")) for one in parcels]
    return {"data": data, "files": files}


def _named(parcels: Sequence[Parcel], terms: Terms) -> dict[str, Any]:
    objects = [parcel.content.uri for parcel in parcels if isinstance(parcel.content, Stored)]
    said: dict[str, Any] = {"tags": terms.tags, "metadata": _metadata(parcels, terms), "wait": terms.wait}
    return {"json": {"objects": objects, **said, **_further(terms)}}


def _metadata(parcels: Sequence[Parcel], terms: Terms) -> Any:
    return [parcel.metadata for parcel in parcels] if terms.each else terms.metadata


def _further(terms: Terms) -> dict[str, Any]:
    told = {"collection": terms.collection, "ttl_s": terms.ttl_s}
    return {name: value for name, value in told.items() if value is not None}


def _outcome(row: Mapping[str, Any]) -> Outcome[KeptImage]:
    return Failed(error_from(row["error"])) if "error" in row else Ok(kept_image(row))


def _query(part: Part) -> dict[str, Any]:
    value: Any = part.value
    if isinstance(value, bytes):
        value = numbers(value) if part.kind == "vector" else base64.b64encode(value).decode("ascii")
    return {part.kind: value, "weight": part.weight}
