"""One HTTP connection pool to one server: httpx's exceptions and problem+json become our errors here."""

from __future__ import annotations

import email.utils
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from modelmora.client.answers import error_from
from modelmora.client.tracing import requesting
from modelmora.errors import (
    Cancelled,
    DeadlineExceeded,
    DependencyUnavailable,
    Fault,
    InternalError,
    ModelMoraError,
    from_code,
)

# For a status that came without our code: from a proxy, or from something that is no ModelMora.
_CODES = {
    400: "invalid_input",
    401: "unauthenticated",
    403: "permission_denied",
    404: "capability_missing",
    405: "capability_missing",
    413: "limit_exceeded",
    415: "unsupported_media",
    422: "validation",
    429: "rate_limited",
    502: "dependency_unavailable",
    503: "dependency_unavailable",
    504: "deadline_exceeded",
}


class HttpConnection:
    """Sends requests and raises only errors of `modelmora.errors`."""

    def __init__(self, url: str, *, token: str | None) -> None:
        self._url = url
        self._host = urlsplit(url).hostname or ""
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {token}"} if token else {},
            # Idle connections go before the server's five seconds end: no request meets a closing one.
            limits=httpx.Limits(max_connections=256, max_keepalive_connections=64, keepalive_expiry=4.0),
        )

    async def send(self, method: str, path: str, *, timeout: float, **content: Any) -> httpx.Response:
        """The response of a request that succeeded; `content` is httpx's json, files, data, params, headers."""
        self._refuse_if_closed()
        with self._requesting(method, path, content), _translated(self._url):
            response = await self._http.request(method, path, timeout=timeout, **content)
            if response.is_error:
                raise error_of(response)
            return response

    @asynccontextmanager
    async def stream(self, method: str, path: str, *, timeout: float, **content: Any) -> AsyncIterator[httpx.Response]:
        """The response while it still comes; `timeout` is the longest silence."""
        self._refuse_if_closed()
        with self._requesting(method, path, content), _translated(self._url):
            async with self._http.stream(method, path, timeout=timeout, **content) as response:
                if response.is_error:
                    await response.aread()
                    raise error_of(response)
                yield response

    async def lines(self, path: str, *, timeout: float, **content: Any) -> AsyncGenerator[Mapping[str, Any], None]:
        """The objects that a POST is answered with, a line each; one that tells an error of the whole raises it."""
        async with self.stream("POST", path, timeout=timeout, **content) as response:
            async for line in response.aiter_lines():
                if line.strip():
                    yield _entry(line)

    async def answer(self, method: str, path: str, *, timeout: float) -> httpx.Response:
        """The response whatever its status, for probes."""
        with _translated(self._url):
            return await self._http.request(method, path, timeout=timeout)

    async def close(self) -> None:
        await self._http.aclose()

    @contextmanager
    def _requesting(self, method: str, path: str, content: dict[str, Any]) -> Iterator[None]:
        """The request's headers in `content` carry the trace on."""
        told = {"http.request.method": method, "url.full": f"{self._url}{path}", "server.address": self._host}
        with requesting(method, told) as trace:
            if trace:
                content["headers"] = {**(content.get("headers") or {}), **trace}
            yield

    def _refuse_if_closed(self) -> None:
        if self._http.is_closed:  # while waiting to try again
            raise Cancelled("the client was closed while the request ran")


def error_of(response: httpx.Response) -> ModelMoraError:
    """The error of a 4xx or 5xx: by the problem's `code`, else by the status; the field of the latter is `url`."""
    problem = _problem(response)
    retry_after_s = _retry_after(response.headers.get("retry-after"))
    if "code" not in problem:
        detail = f"{response.url} answered {response.status_code} {response.reason_phrase}: not a ModelMora problem"
        error = from_code(_CODES.get(response.status_code, "internal"), detail, retry_after_s=retry_after_s)
        error.field, error.found = "url", str(response.url)
        return error
    detail = problem.get("detail") or problem.get("title") or problem["code"]
    error = from_code(str(problem["code"]), str(detail), retry_after_s=retry_after_s)
    error.faults = tuple(_fault(entry, error) for entry in problem.get("errors") or () if isinstance(entry, dict))
    if error.faults:
        first = error.faults[0]
        error.field, error.found, error.expected = first.field, first.found, first.expected
    return error


def json_of(response: httpx.Response) -> Any:
    """The body as JSON; raises InternalError when it is something else."""
    try:
        return response.json()
    except (json.JSONDecodeError, UnicodeDecodeError) as cause:
        raise InternalError(f"{response.url} answered no JSON; is it a ModelMora server?") from cause


def _entry(line: str) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as cause:
        raise InternalError(f"the server sent a line that is no JSON object: {line[:80]}") from cause
    if not isinstance(entry, dict):
        raise InternalError(f"the server sent a line that is no JSON object: {line[:80]}")
    if entry.get("error") is not None and "index" not in entry:
        raise error_from(entry["error"])
    return entry


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.ConnectTimeout as cause:
        raise DependencyUnavailable(
            f"no answer from {url}: connecting took too long", field="url", found=url
        ) from cause
    except httpx.TimeoutException as cause:
        raise DeadlineExceeded(f"no answer from {url} within the deadline") from cause
    except httpx.TransportError as cause:
        reason = str(cause) or type(cause).__name__
        raise DependencyUnavailable(f"no answer from {url}: {reason}", field="url", found=url) from cause
    except (httpx.HTTPError, httpx.InvalidURL) as cause:
        raise InternalError(f"{url} answered what cannot be read: {cause}") from cause


def _problem(response: httpx.Response) -> Mapping[str, Any]:
    try:
        body = response.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return body if isinstance(body, dict) else {}


def _fault(entry: Mapping[str, Any], error: ModelMoraError) -> Fault:
    return Fault(
        str(entry.get("code", error.code)),
        str(entry.get("detail", error.detail)),
        entry.get("index"),
        entry.get("field"),
        entry.get("found"),
        entry.get("expected"),
    )


def _retry_after(header: str | None) -> float | None:
    """Seconds, given as such or as an HTTP date; None when absent or unreadable."""
    if header is None:
        return None
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)
