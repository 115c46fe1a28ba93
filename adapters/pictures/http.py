"""Fetches pictures over HTTP: from the hosts of an allow-list, within bounds of time, bytes and connections."""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import structlog

from adapters.pictures.guarded import GuardedTransport, Resolve, resolver
from adapters.pictures.reading import Allowance, read_picture
from modelmora.domain.addresses import Network
from modelmora.domain.inference import Call
from modelmora.domain.links import FIELD, HostRule, Target, admitted
from modelmora.domain.outcome import Failed, Ok, Outcome
from modelmora.errors import (
    DeadlineExceeded,
    DependencyUnavailable,
    LimitExceeded,
    ModelMoraError,
    Overloaded,
    unexpected,
)

log = structlog.get_logger(__name__)

AT_ONCE = 32
"""Connections of one API worker."""
AT_ONCE_OF_A_REQUEST = 8
"""So that one request of many URLs leaves room for the others."""
REQUESTS = 8
"""Requests of one API worker whose pictures are fetched side by side, the others wait: what came is held until the last
picture of a request is there, and a caller sends a few bytes for all of it."""
MOST_OPEN = 1024
"""URLs of one API worker that are fetched or wait for it; more are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRules:
    """Who may be asked for how much: bytes of one picture and of all of a request, seconds for one picture."""

    hosts: tuple[HostRule, ...]
    networks: tuple[Network, ...] = ()
    picture_bytes: int = 32 * 2**20
    request_bytes: int = 64 * 2**20
    timeout_s: float = 10.0


class HttpPictures:
    """The port Pictures over http and https.

    A URL is admitted by scheme, host and port before anything is resolved; then the transport looks at the addresses.
    """

    def __init__(
        self,
        rules: FetchRules,
        *,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules
        self._stack = contextlib.ExitStack()
        ask = resolve or self._stack.enter_context(resolver(AT_ONCE))
        self._transport = GuardedTransport(ask, networks=rules.networks, tls=tls)
        self._room = asyncio.Semaphore(AT_ONCE)
        self._requests = asyncio.Semaphore(REQUESTS)
        self._open = 0

    async def fetch(self, urls: Sequence[str], *, call: Call) -> list[Outcome[bytes]]:
        """See the port. A URL that stands there twice is fetched once."""
        unique = list(dict.fromkeys(urls))
        if len(unique) > MOST_OPEN:
            return [Failed(_too_many(len(unique))) for _ in urls]
        if self._open + len(unique) > MOST_OPEN:
            return [Failed(_overloaded(self._open)) for _ in urls]
        turn, allowance = asyncio.Semaphore(AT_ONCE_OF_A_REQUEST), Allowance(self._rules.request_bytes)
        self._open += len(unique)
        try:
            async with _until(call), self._requests:
                brought = await asyncio.gather(*(self._settled(url, call, turn, allowance) for url in unique))
        except DeadlineExceeded as error:
            return [Failed(error) for _ in urls]
        finally:
            self._open -= len(unique)
        outcomes = dict(zip(unique, brought, strict=True))
        return [outcomes[url] for url in urls]

    async def close(self) -> None:
        """Drops what is open."""
        await self._transport.aclose()
        self._stack.close()

    async def _settled(self, url: str, call: Call, turn: asyncio.Semaphore, allowance: Allowance) -> Outcome[bytes]:
        try:
            target = admitted(url, self._rules.hosts)
            async with _until(call), turn, self._room:
                return Ok(await self._fetched(target, allowance))
        except ModelMoraError as error:
            log.info("picture_not_fetched", request_id=call.request_id, code=error.code, why=error.detail)
            return Failed(error)
        except Exception as cause:
            log.error("picture_not_fetched", request_id=call.request_id, exc_info=cause)
            return Failed(unexpected())

    async def _fetched(self, target: Target, allowance: Allowance) -> bytes:
        """Resolved, connected, asked and read to the end within the time that one picture has."""
        seconds = self._rules.timeout_s
        try:
            async with asyncio.timeout(seconds), self._transport.get(target, timeout_s=seconds) as response:
                return await read_picture(response, target, limit=self._rules.picture_bytes, allowance=allowance)
        except TimeoutError:
            raise DependencyUnavailable(
                f"{target.origin} did not send the picture in time", field=FIELD, expected=f"within {seconds:g} s"
            ) from None


def _too_many(count: int) -> LimitExceeded:
    return LimitExceeded(f"{count} URLs in one request", field=FIELD, found=str(count), expected=f"at most {MOST_OPEN}")


def _overloaded(count: int) -> Overloaded:
    return Overloaded(f"{count} pictures are being fetched in this API worker", retry_after_s=1.0)


@contextlib.asynccontextmanager
async def _until(call: Call) -> AsyncIterator[None]:
    """The caller's deadline, waiting for a turn included."""
    left = None if math.isinf(call.deadline) else max(0.0, call.deadline - time.monotonic())
    try:
        async with asyncio.timeout(left):
            yield
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed before the picture was fetched", field=FIELD) from None
