"""Embedding over HTTP: multipart pictures, JSON texts, base64 vectors back."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from modelmora.client import flow
from modelmora.client.answers import Answer, arrange, error_from, lost
from modelmora.client.embedding import Embedding
from modelmora.client.http_calls import files_of
from modelmora.client.http_connection import json_of
from modelmora.client.http_keeping import HttpKeeping
from modelmora.client.http_tasks import HttpTasks
from modelmora.client.progress import Progress
from modelmora.client.transport import Group
from modelmora.domain.inference import Call, Content, Image, Text
from modelmora.domain.outcome import Failed, Outcome, unwrap
from modelmora.errors import (
    AccessError,
    Cancelled,
    DeadlineExceeded,
    DependencyUnavailable,
    InternalError,
    LimitExceeded,
    ModelMoraError,
    NotFound,
    ValidationFailed,
)

REQUESTS_AT_ONCE = 4
"""Of one stream: httpx sends a body to its end before it reads the answer, so a stream is several short requests."""


class HttpTransport(HttpTasks, HttpKeeping):
    """Everything under `/v1`; a mixed request to embed goes out as one of pictures and one of texts."""

    async def embed(self, items: Sequence[Content], *, model: str | None, call: Call) -> list[Outcome[Embedding]]:
        images = {index: item.data for index, item in enumerate(items) if isinstance(item, Image)}
        texts = {index: item.text for index, item in enumerate(items) if isinstance(item, Text)}
        pictured, read = await asyncio.gather(
            self._post(len(images), "/v1/embed/image", call, **_multipart(images.values(), model)),
            self._post(len(texts), "/v1/embed/text", call, **_json(texts.values(), model, call.truncate)),
        )
        return arrange(len(items), [*zip(images, pictured, strict=True), *zip(texts, read, strict=True)])

    async def batch(
        self, groups: AsyncGenerator[Group, None], *, model: str | None, call: Call
    ) -> AsyncGenerator[tuple[int, Outcome[Embedding]], None]:
        async def send(group: Group) -> list[tuple[int, Outcome[Embedding]]]:
            return await self._group(group, model, call)

        parts = flow.spread(groups, send, concurrency=REQUESTS_AT_ONCE, ordered=False)
        async with aclosing(parts):
            async for _, answered in parts:
                for numbered in answered:
                    yield numbered

    async def progress(
        self, item: Content, *, model: str | None, call: Call
    ) -> AsyncGenerator[Progress | Embedding, None]:
        fields = {"encoding_format": "base64"} | ({"model": model} if model else {})
        content: dict[str, Any] = {"params": fields}
        if isinstance(item, Image):
            content |= {"content": item.data, "headers": {"content-type": "application/octet-stream"}}
        else:
            content = {"json": {"text": item.text, "truncate": call.truncate, **fields}}
        async with aclosing(self._lines("/v1/embed/stream", call, **content)) as lines:
            async for line in lines:
                yield _news(line)

    async def _group(self, group: Group, model: str | None, call: Call) -> list[tuple[int, Outcome[Embedding]]]:
        """Its pictures in one form, its texts in one request, side by side."""
        images = {number: item.data for number, item in group if isinstance(item, Image)}
        texts = {number: item.text for number, item in group if isinstance(item, Text)}
        pictured, read = await asyncio.gather(self._pictures(images, model, call), self._texts(texts, model, call))
        return [*pictured, *read]

    async def _pictures(
        self, images: Mapping[int, bytes], model: str | None, call: Call
    ) -> list[tuple[int, Outcome[Embedding]]]:
        if not images:
            return []
        numbers, found = [*images], dict[int, Outcome[Embedding]]()
        async with aclosing(self._lines("/v1/embed/batch", call, **_multipart(images.values(), model))) as lines:
            async for line in lines:
                if line.get("index") in range(len(numbers)):
                    found[numbers[line["index"]]] = _streamed(line)
        return [*found.items()]

    async def _texts(
        self, texts: Mapping[int, str], model: str | None, call: Call
    ) -> list[tuple[int, Outcome[Embedding]]]:
        if not texts:
            return []
        try:
            answers = await self._ask(len(texts), "/v1/embed/text", call, **_json(texts.values(), model, call.truncate))
        except ModelMoraError as error:  # also that of an only text: a request of one item has its status
            if _ends_all(error, call):
                raise
            answers = lost(len(texts), error)
        return [*zip(texts, answers, strict=True)]

    async def _post(self, count: int, path: str, call: Call, **content: Any) -> list[Outcome[Embedding]]:
        if not count:
            return []
        try:
            return await self._ask(count, path, call, **content)
        except ModelMoraError as error:
            return lost(count, error)

    async def _ask(self, count: int, path: str, call: Call, **content: Any) -> list[Outcome[Embedding]]:
        response = await self._send(path, call, **content)
        return _outcomes(count, json_of(response), response.headers.get("server-timing", ""))


def _ends_all(error: ModelMoraError, call: Call) -> bool:
    """Whether every other request of a stream would meet the error as well, so that it is no item's own."""
    match error:
        case AccessError() | NotFound() | DependencyUnavailable() | Cancelled():
            return True
        case DeadlineExceeded():  # the deadline of all, where there is one
            return not math.isinf(call.deadline)
        case ValidationFailed(field="model") | LimitExceeded(field="items"):
            return True
    return error.field == "url"


def _multipart(images: Any, model: str | None) -> dict[str, Any]:
    return {"files": files_of([*images]), "data": {"encoding_format": "base64"} | ({"model": model} if model else {})}


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
    return Failed(error_from(entry["error"]))


def _streamed(line: Mapping[str, Any]) -> Outcome[Embedding]:
    try:
        if "error" in line:
            return Failed(error_from(line["error"]))
        data = base64.b64decode(line["embedding"], validate=True)
        timing = str(line.get("server_timing", ""))
        answer = Answer(model=str(line["model"]), version=str(line["version"]), server_timing=timing)
        return answer.embedding(data, dimension=len(data) // 4)
    except (LookupError, TypeError, ValueError) as cause:
        raise InternalError(f"the server sent a line of another shape than promised: {cause!r}") from cause


def _news(line: Mapping[str, Any]) -> Progress | Embedding:
    if "embedding" in line:
        return unwrap(_streamed(line))
    try:
        return Progress(
            stage=str(line["stage"]),
            percent=float(line["percent"]),
            done=int(line["done"]),
            total=int(line["total"]),
        )
    except (LookupError, TypeError, ValueError) as cause:
        raise InternalError(f"the server sent a line of another shape than promised: {cause!r}") from cause
