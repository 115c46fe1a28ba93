"""The port `EmbeddingCache` in Redis, shared by all processes. It fails open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from modelmora.errors import DependencyUnavailable
from modelmora.telemetry import CACHE_ERRORS

T = TypeVar("T")
log = structlog.get_logger(__name__)

PREFIX = "mm:e:"
TIMEOUT_S = 0.25
REST_S = 1.0
"""So long nothing is asked of a server that did not answer: a request does not wait for it twice."""


class RedisCache:
    """One question for all keys, one pipeline for all that is kept."""

    def __init__(
        self,
        url: str,
        *,
        ttl_s: int,
        timeout_s: float = TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet; the URL's password is not told to anybody."""
        told = urlsplit(url)
        self._where = f"{told.scheme}://{told.hostname}:{told.port or 6379}"
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._resting_until = 0.0
        self._away = False
        self._redis: Redis = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, max_connections=64
        )

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See the port."""
        nothing: list[bytes | None] = [None] * len(keys)
        named = [PREFIX + key for key in keys]
        return await self._asked(lambda: cast(Any, self._redis.mget(named)), nothing) if keys else nothing

    async def put(self, entries: Mapping[str, bytes]) -> None:
        """See the port."""

        async def work() -> None:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key, value in entries.items():
                    pipeline.set(PREFIX + key, value, ex=self._ttl_s)
                await pipeline.execute()

        if entries:
            await self._asked(work, None)

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
        await self._redis.aclose()

    async def _asked(self, work: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """What the server says; `otherwise` where it does not, and while it rests after that."""
        if self._clock() < self._resting_until:
            return otherwise
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await work()
        except (RedisError, OSError, TimeoutError) as cause:
            self._rest(cause)
            return otherwise
        if self._away:
            self._away = False
            log.info("cache_back", where=self._where)
        return answer

    def _rest(self, cause: Exception) -> None:
        CACHE_ERRORS.inc()
        self._resting_until = self._clock() + REST_S
        if not self._away:
            self._away = True
            log.warning("cache_away", where=self._where, why=str(cause) or type(cause).__name__)

    def _unavailable(self, cause: Exception) -> DependencyUnavailable:
        why = str(cause) or "it does not answer in time"
        said = f"the cache {self._where} does not answer: {why}; MODELMORA_CACHE_URL names it"
        return DependencyUnavailable(said, retry_after_s=1.0)
