"""The control half of the SDK: models, loading, pulling, health; always REST."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from modelmora.client.retry import Retrier
from modelmora.domain.models import ModelRef, ModelType
from modelmora.errors import InternalError
from modelmora.ports import Examination, Fetch, ModelReport

if TYPE_CHECKING:
    import httpx

    from modelmora.client.http_connection import HttpConnection

Verb = Literal["load", "unload", "warmup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model as the server lists it; `bytes` is its measured footprint, 0 while not known."""

    name: str
    version: str
    type: str
    provider: str = ""
    source: str = ""
    group: str = ""
    default: bool = False
    device: str = ""
    precision: str = ""
    engine: str = ""
    state: str = ""
    bytes: int = 0
    workers: tuple[str, ...] = ()
    error: str | None = None

    @property
    def key(self) -> str:
        return f"{self.name}@{self.version}"


class Control:
    """Requests to `/api/v1` and the probes; `timeout` is the default deadline in seconds."""

    def __init__(self, url: str, *, token: str | None, timeout: float, retrier: Retrier) -> None:
        self._url = url
        self._token = token
        self._timeout = timeout
        self._retrier = retrier
        self._opened: HttpConnection | None = None

    async def models(self, type_: ModelType | None = None) -> list[ModelInfo]:
        """Every model, over all pages."""
        found: list[ModelInfo] = []
        cursor: str | None = None
        while True:
            params = {"limit": 500} | ({"type": type_} if type_ else {}) | ({"cursor": cursor} if cursor else {})
            page = await self._json("GET", "/api/v1/models", params=params)
            found += [_model(entry) for entry in page["data"]]
            cursor = page.get("next_cursor")
            if not cursor:
                return found

    async def model(self, ref: str) -> ModelInfo:
        return _model(await self._json("GET", f"/api/v1/models/{_path(ref)}"))

    async def change(self, ref: str, verb: Verb, *, wait: bool, timeout: float) -> ModelReport:
        """Load, unload or warm up; idempotent. `wait` False answers at once with the state under way."""
        path = f"/api/v1/models/{_path(ref)}/{verb}"
        return _report(await self._json("POST", path, timeout=timeout, params={"wait": "true" if wait else "false"}))

    async def pull(self, ref: str, *, silence: float) -> AsyncGenerator[Fetch, None]:
        """Progress of bringing a model's files to the server; `silence` is the longest pause between two lines."""
        async with aclosing(self._connection.lines(f"/api/v1/models/{_path(ref)}/pull", timeout=silence)) as lines:
            async for line in lines:
                yield _fetch(line)

    async def examine(self, ref: str, what: Examination, *, timeout: float) -> AsyncGenerator[Mapping[str, Any], None]:
        """The steps of a long look at a model, the last one is the report; not retried."""
        path, headers = f"/api/v1/models/{_path(ref)}/{what}", {"x-modelmora-timeout-ms": str(int(timeout * 1000))}
        async with aclosing(self._connection.lines(path, timeout=timeout, headers=headers)) as lines:
            async for line in lines:
                yield line

    async def health(self) -> Mapping[str, Any]:
        """The report also when the server is down (503); raises when something else answers."""
        return await self._probe("/health")

    async def ready(self) -> bool:
        response = await self._connection.answer("GET", "/readyz", timeout=self._timeout)
        return bool(response.is_success)

    async def limits(self) -> Mapping[str, Any]:
        return _mapping(await self._json("GET", "/api/v1/limits"))

    async def version(self) -> Mapping[str, Any]:
        return _mapping(await self._json("GET", "/version"))

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    @property
    def _connection(self) -> HttpConnection:
        if self._opened is None:
            from modelmora.client.http_connection import HttpConnection  # noqa: PLC0415 - only here httpx is needed

            self._opened = HttpConnection(self._url, token=self._token)
        return self._opened

    async def _probe(self, path: str) -> Mapping[str, Any]:
        from modelmora.client.http_connection import error_of, json_of  # noqa: PLC0415 - only here httpx is needed

        response = await self._connection.answer("GET", path, timeout=self._timeout)
        if response.is_success or _is_report(response):
            return _mapping(json_of(response))
        raise error_of(response)

    async def _json(self, method: str, path: str, *, timeout: float | None = None, **content: Any) -> Any:
        from modelmora.client.http_connection import json_of  # noqa: PLC0415 - only here httpx is needed

        deadline = time.monotonic() + (timeout or self._timeout)

        async def once() -> Any:
            remaining_s = max(deadline - time.monotonic(), 0.001)
            headers = {"x-modelmora-timeout-ms": str(max(int(remaining_s * 1000), 1))}
            response = await self._connection.send(method, path, timeout=remaining_s, headers=headers, **content)
            return json_of(response)

        return await self._retrier.value(once, deadline=deadline)


def _path(ref: str) -> str:
    return quote(str(ModelRef.parse(ref)), safe="@")


def _is_report(response: httpx.Response) -> bool:
    """A report's status is a word, a problem's a number, and a proxy's page has none."""
    try:
        body = response.json()
    except ValueError:
        return False
    return isinstance(body, dict) and isinstance(body.get("status"), str)


_MODEL_FIELDS = frozenset(field.name for field in fields(ModelInfo))


def _model(entry: Any) -> ModelInfo:
    """Fields of a newer server are left out, so that an older client goes on."""
    try:
        known = {name: value for name, value in _mapping(entry).items() if name in _MODEL_FIELDS}
        return ModelInfo(**known | {"workers": tuple(known.get("workers") or ()), "bytes": known.get("bytes") or 0})
    except TypeError as cause:
        raise InternalError(f"the server describes a model without what makes it one: {cause}") from cause


def _report(body: Any) -> ModelReport:
    answer = _mapping(body)
    try:
        return ModelReport(
            model=answer["model"],
            version=answer["version"],
            state=answer["state"],
            workers=tuple(answer.get("workers") or ()),
            ms=float(answer.get("ms") or 0.0),
            bytes=int(answer.get("bytes") or 0),
        )
    except KeyError as cause:
        raise InternalError(f"the server's report lacks {cause}") from cause


def _fetch(entry: Mapping[str, Any]) -> Fetch:
    return Fetch(
        model=str(entry.get("model", "")),
        done_bytes=int(entry.get("done_bytes") or 0),
        total_bytes=int(entry.get("total_bytes") or 0),
        licence=entry.get("licence"),
        finished=bool(entry.get("finished")),
    )


def _mapping(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise InternalError(f"the server answered {type(body).__name__} where an object is promised")
    return body
