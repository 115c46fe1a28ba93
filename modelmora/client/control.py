"""The control half of the SDK: models, loading, pulling, health; always REST."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from modelmora.client.retry import Retrier, Retry
from modelmora.domain.models import ModelRef, ModelType
from modelmora.errors import InternalError, ValidationFailed
from modelmora.ports import Examination, Fetch, ModelReport

if TYPE_CHECKING:
    import httpx

    from modelmora.client.http_connection import HttpConnection

Verb = Literal["load", "unload", "warmup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model as the server lists it; `bytes` is its measured footprint, 0 while not known.

    `version` is the one that the bare name stands for, or that was asked for; empty where it stands for none yet. What
    follows `error` is told of what is registered; `row` counts the entry's changes.
    """

    name: str
    version: str = ""
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
    id: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    owner: str = ""
    current: str | None = None
    created_at: datetime | None = None
    changed_at: datetime | None = None
    row: int = 0

    @property
    def key(self) -> str:
        """`name@version`, or the name where it has no version yet."""
        return f"{self.name}@{self.version}" if self.version else self.name


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
            page = await self.ask("GET", "/api/v1/models", params=params)
            found += [model_info(entry) for entry in page["data"]]
            cursor = page.get("next_cursor")
            if not cursor:
                return found

    async def model(self, ref: str) -> ModelInfo:
        return model_info(await self.ask("GET", f"/api/v1/models/{_path(ref)}"))

    async def change(self, ref: str, verb: Verb, *, wait: bool, timeout: float) -> ModelReport:
        """Load, unload or warm up; idempotent. `wait` False answers at once with the state under way."""
        path = f"/api/v1/models/{_path(ref)}/{verb}"
        return _report(await self.ask("POST", path, timeout=timeout, params={"wait": "true" if wait else "false"}))

    async def pull(self, ref: str, *, silence: float) -> AsyncGenerator[Fetch, None]:
        """Progress of bringing a model's files to the server; `silence` is the longest pause between two lines."""
        async with aclosing(self.connection.lines(f"/api/v1/models/{_path(ref)}/pull", timeout=silence)) as lines:
            async for line in lines:
                yield _fetch(line)

    async def examine(self, ref: str, what: Examination, *, timeout: float) -> AsyncGenerator[Mapping[str, Any], None]:
        """The steps of a long look at a model, the last one is the report; not retried."""
        path, headers = f"/api/v1/models/{_path(ref)}/{what}", {"x-modelmora-timeout-ms": str(int(timeout * 1000))}
        async with aclosing(self.connection.lines(path, timeout=timeout, headers=headers)) as lines:
            async for line in lines:
                yield line

    async def health(self) -> Mapping[str, Any]:
        """The report also when the server is down (503); raises when something else answers."""
        return await self._probe("/health")

    async def ready(self) -> bool:
        response = await self.connection.answer("GET", "/readyz", timeout=self._timeout)
        return bool(response.is_success)

    async def limits(self) -> Mapping[str, Any]:
        return mapping(await self.ask("GET", "/api/v1/limits"))

    async def version(self) -> Mapping[str, Any]:
        return mapping(await self.ask("GET", "/version"))

    async def metrics(self) -> str:
        return (await self.response("GET", "/metrics")).text

    async def close(self) -> None:
        if self._opened is not None:
            await self._opened.close()

    @property
    def connection(self) -> HttpConnection:
        if self._opened is None:
            from modelmora.client.http_connection import HttpConnection  # noqa: PLC0415 - only here httpx is needed

            self._opened = HttpConnection(self._url, token=self._token)
        return self._opened

    async def _probe(self, path: str) -> Mapping[str, Any]:
        from modelmora.client.http_connection import error_of, json_of  # noqa: PLC0415 - only here httpx is needed

        response = await self.connection.answer("GET", path, timeout=self._timeout)
        if response.is_success or _is_report(response):
            return mapping(json_of(response))
        raise error_of(response)

    async def ask(self, method: str, path: str, **how: Any) -> Any:
        """The JSON of the answer, None where it is empty; `how` as `response` takes it."""
        from modelmora.client.http_connection import json_of  # noqa: PLC0415 - only here httpx is needed

        response = await self.response(method, path, **how)
        return json_of(response) if response.content else None

    async def response(
        self,
        method: str,
        path: str,
        *,
        timeout: float | None = None,
        headers: Mapping[str, str] | None = None,
        again: bool = True,
        body: Any = None,
        **content: Any,
    ) -> httpx.Response:
        """The answer, asked for again within `timeout` where that may help.

        `again` False is for what would not be the same the second time. Raises ValidationFailed for a `body` that is no
        JSON.
        """
        deadline = time.monotonic() + (timeout or self._timeout)
        given = dict(headers or {})
        if body is not None:
            content["content"] = as_json(body)
            given["content-type"] = "application/json"

        async def once() -> httpx.Response:
            remaining_s = max(deadline - time.monotonic(), 0.001)
            told = {"x-modelmora-timeout-ms": str(max(int(remaining_s * 1000), 1)), **given}
            return await self.connection.send(method, path, timeout=remaining_s, headers=told, **content)

        retrier = self._retrier if again else replace(self._retrier, retry=Retry(retries=0))
        return await retrier.value(once, deadline=deadline)


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


def model_info(entry: Any) -> ModelInfo:
    """Fields of a newer server are left out, so that an older client goes on."""
    try:
        known = {name: value for name, value in mapping(entry).items() if name in _MODEL_FIELDS}
        lists = {name: tuple(known.get(name) or ()) for name in ("workers", "tags")}
        moments = {name: moment(known.get(name)) for name in ("created_at", "changed_at")}
        plain = {"bytes": known.get("bytes") or 0, "version": known.get("version") or ""}
        return ModelInfo(**known | lists | moments | plain)
    except (TypeError, ValueError) as cause:
        raise InternalError(f"the server describes a model without what makes it one: {cause}") from cause


def _report(body: Any) -> ModelReport:
    answer = mapping(body)
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


def as_json(value: Any) -> bytes:
    """Moments as RFC 3339 has them; raises ValidationFailed for what JSON cannot say."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_told)
        return text.encode()
    except (TypeError, ValueError, RecursionError) as cause:
        raise ValidationFailed(f"this cannot be sent as JSON: {cause}", field="body") from cause


def _told(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is none of JSON's types")


def moment(told: str | None) -> datetime | None:
    """RFC 3339, None where nothing is told; raises ValueError for another text."""
    return datetime.fromisoformat(told) if told else None


def mapping(body: Any) -> Mapping[str, Any]:
    """An answer that is an object; raises InternalError for another."""
    if not isinstance(body, dict):
        raise InternalError(f"the server answered {type(body).__name__} where an object is promised")
    return body
