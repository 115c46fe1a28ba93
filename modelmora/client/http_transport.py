"""Embedding over HTTP: multipart pictures, JSON texts, base64 vectors back."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping, Sequence
from typing import Any

from modelmora.client.address import Address
from modelmora.client.answers import Answer, arrange, item_error, lost
from modelmora.client.embedding import Embedding
from modelmora.client.http_connection import HttpConnection, json_of
from modelmora.domain.inference import Call, Content, Image, Text
from modelmora.domain.outcome import Failed, Outcome
from modelmora.errors import InternalError, ModelMoraError


class HttpTransport:
    """`POST /v1/embed/image` and `/v1/embed/text`; a mixed request goes out as one of each."""

    def __init__(self, address: Address, *, token: str | None) -> None:
        self._connection = HttpConnection(address.control_url, token=token)

    async def embed(self, items: Sequence[Content], *, model: str | None, call: Call) -> list[Outcome[Embedding]]:
        images = {index: item.data for index, item in enumerate(items) if isinstance(item, Image)}
        texts = {index: item.text for index, item in enumerate(items) if isinstance(item, Text)}
        pictured, read = await asyncio.gather(
            self._post(len(images), "/v1/embed/image", call, **_multipart(images.values(), model)),
            self._post(len(texts), "/v1/embed/text", call, **_json(texts.values(), model, call.truncate)),
        )
        return arrange(len(items), [*zip(images, pictured, strict=True), *zip(texts, read, strict=True)])

    async def close(self) -> None:
        await self._connection.close()

    async def _post(self, count: int, path: str, call: Call, **content: Any) -> list[Outcome[Embedding]]:
        if not count:
            return []
        remaining_s = max(call.deadline - time.monotonic(), 0.001)
        headers = {
            "x-request-id": call.request_id,
            "x-modelmora-timeout-ms": str(max(int(remaining_s * 1000), 1)),
            "x-modelmora-priority": call.priority,
        }
        try:
            response = await self._connection.send("POST", path, timeout=remaining_s, headers=headers, **content)
            return _outcomes(count, json_of(response), response.headers.get("server-timing", ""))
        except ModelMoraError as error:
            return lost(count, error)


def _multipart(images: Any, model: str | None) -> dict[str, Any]:
    files = [("files", (f"{index}", data, "application/octet-stream")) for index, data in enumerate(images)]
    return {"files": files, "data": {"encoding_format": "base64"} | ({"model": model} if model else {})}


def _json(texts: Any, model: str | None, truncate: bool) -> dict[str, Any]:
    body: dict[str, Any] = {"texts": [*texts], "truncate": truncate, "encoding_format": "base64"}
    return {"json": body | ({"model": model} if model else {})}


def _outcomes(count: int, body: Any, server_timing: str) -> list[Outcome[Embedding]]:
    try:
        answer = Answer(model=str(body["model"]), version=str(body["version"]), server_timing=server_timing)
        dimension = int(body["dimension"] or 0)
        return arrange(count, [(int(entry["index"]), _outcome(entry, answer, dimension)) for entry in body["data"]])
    except (LookupError, TypeError, ValueError) as cause:
        raise InternalError(f"the server's answer has another shape than /v1/embed promises: {cause!r}") from cause


def _outcome(entry: Mapping[str, Any], answer: Answer, dimension: int) -> Outcome[Embedding]:
    if "error" not in entry:
        return answer.embedding(base64.b64decode(entry["embedding"], validate=True), dimension=dimension)
    error = entry["error"]
    optional = {name: error.get(name) for name in ("field", "found", "expected", "retry_after_s")}
    return Failed(item_error(error["code"], error["detail"], **optional))
