"""The port `EmbeddingCache` in Redis, shared by all processes. It fails open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from adapters.cache.together import Together
from modelmora.errors import DependencyUnavailable
from modelmora.telemetry import CACHE_ERRORS

T = TypeVar("T")
log = structlog.get_logger(__name__)

PREFIX = "mm:e:"
TIMEOUT_S = 0.25
REST_S = 1.0
"""Between two looks at a server that did not answer; no request waits for one."""

AT_ONCE = 256
"""Embeddings asked for, or kept, in one question."""


class RedisCache:
    """One question for all keys that are wanted at the same time, one pipeline for all that is kept then.

    A server that does not answer is asked nothing more until it does: that is tried in the background. One that
    answers, but refuses (it is full, it may only be read), is asked on.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl_s: int,
        timeout_s: float = TIMEOUT_S,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Nothing is asked yet; the URL's password is not told to anybody."""
        told = urlsplit(url)
        self._where = f"{told.scheme}://{told.hostname}:{told.port or 6379}"
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._probing: asyncio.Task[None] | None = None
        self._refusing = False
        self._redis: Redis = Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),  # a connection that the server closed while it was idle
        )
        self._reading: Together[None, dict[str, bytes | None]] = Together(self._read, otherwise={}, at_most=AT_ONCE)
        self._writing: Together[bytes, None] = Together(self._write, otherwise=None, at_most=AT_ONCE)

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See the port."""
        if not keys or self._probing is not None:
            return [None] * len(keys)
        found = await self._reading.ask(dict.fromkeys(keys))
        return [found.get(key) for key in keys]

    async def put(self, entries: Mapping[str, bytes]) -> None:
        """See the port."""
        if entries and self._probing is None:
            await self._writing.ask(entries)

    async def ping(self) -> float:
        """See the port."""
        start = time.perf_counter()
        try:
            async with asyncio.timeout(max(1.0, self._timeout_s)):
                await cast(Any, self._redis.ping())
        except (RedisError, OSError, TimeoutError) as cause:
            raise self._unavailable(cause) from cause
        return (time.perf_counter() - start) * 1e3

    async def close(self) -> None:
        """Idempotent."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self._reading.close()
        await self._writing.close()
        await self._redis.aclose()

    async def _read(self, entries: Mapping[str, None]) -> dict[str, bytes | None]:
        keys = list(entries)

        async def work() -> dict[str, bytes | None]:
            found: Sequence[bytes | None] = await cast(Any, self._redis.mget([PREFIX + key for key in keys]))
            return dict(zip(keys, found, strict=True))

        return await self._asked(work, {})

    async def _write(self, entries: Mapping[str, bytes]) -> None:
        async def work() -> None:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key, value in entries.items():
                    pipeline.set(PREFIX + key, value, ex=self._ttl_s)
                await pipeline.execute()

        await self._asked(work, None)

    async def _asked(self, work: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """What the server says; `otherwise` where it does not, or is known to be away."""
        if self._probing is not None:
            return otherwise
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work()
        except ResponseError as cause:
            self._refused(cause)
        except Exception as cause:  # whatever it is, a request must not fail of it
            self._rest(cause)
        return otherwise

    def _refused(self, cause: ResponseError) -> None:
        CACHE_ERRORS.inc()
        if not self._refusing:
            self._refusing = True
            log.warning("cache_refuses", where=self._where, why=type(cause).__name__)

    def _rest(self, cause: Exception) -> None:
        CACHE_ERRORS.inc()
        if self._probing is None:
            log.warning("cache_away", where=self._where, why=str(cause) or type(cause).__name__)
            self._probing = asyncio.create_task(self._probe())

    async def _probe(self) -> None:
        """Until it answers."""
        answers = False
        while not answers:
            await self._sleep(REST_S)
            try:
                await self.ping()
                answers = True
            except Exception:  # whatever it is, the next look may find it gone
                CACHE_ERRORS.inc()
        self._probing, self._refusing = None, False
        log.info("cache_back", where=self._where)

    def _unavailable(self, cause: Exception) -> DependencyUnavailable:
        why = str(cause) or "it does not answer in time"
        said = f"the cache {self._where} does not answer: {why}; MODELMORA_CACHE_URL names it"
        return DependencyUnavailable(said, retry_after_s=1.0)
