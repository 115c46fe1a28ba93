"""Embeddings remembered in memory and in a real Redis."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis as Client

from adapters.cache.memory import ENTRY_BYTES, MemoryCache
from adapters.cache.null import NullCache
from adapters.cache.redis import RedisCache
from adapters.cache.together import Together
from load.components.redis import Redis
from modelmora.errors import DependencyUnavailable
from modelmora.ports import EmbeddingCache
from tests.support import components, reserve_port


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[EmbeddingCache]:
    if request.param == "memory":
        made: EmbeddingCache = MemoryCache(max_bytes=10**6, ttl_s=60)
    else:
        made = RedisCache(request.getfixturevalue("redis"), ttl_s=60)
    yield made
    await made.close()


async def test_what_was_put_is_found_in_the_order_of_the_keys(cache: EmbeddingCache) -> None:
    one, two, three = (secrets.token_hex(8) for _ in range(3))
    await cache.put({one: b"1", two: bytes(range(256))})
    assert await cache.get([two, three, one, two]) == [bytes(range(256)), None, b"1", bytes(range(256))]
    await cache.put({one: b"new"})
    assert await cache.get([one]) == [b"new"]
    assert await cache.get([]) == []
    await cache.put({})
    assert await cache.ping() >= 0


async def test_memory_is_bounded_and_what_was_used_longest_ago_goes_first() -> None:
    cache = MemoryCache(max_bytes=3 * (ENTRY_BYTES + 11), ttl_s=60)
    for key in "abc":
        await cache.put({key: b"x" * 10})
    await cache.get(["a"])
    await cache.put({"d": b"x" * 10})
    assert await cache.get(["a", "b", "c", "d"]) == [b"x" * 10, None, b"x" * 10, b"x" * 10]
    await cache.put({"huge": b"x" * 10_000})
    assert await cache.get(["huge"]) == [None]


async def test_memory_forgets_after_its_time() -> None:
    now = [0.0]
    cache = MemoryCache(max_bytes=10**6, ttl_s=60, clock=lambda: now[0])
    await cache.put({"a": b"1"})
    now[0] = 59.9
    assert await cache.get(["a"]) == [b"1"]
    now[0] = 60.0
    assert await cache.get(["a"]) == [None]


async def test_redis_forgets_after_its_time(redis: str) -> None:
    cache, key = RedisCache(redis, ttl_s=1), secrets.token_hex(8)
    await cache.put({key: b"1"})
    async with asyncio.timeout(10):
        while await cache.get([key]) != [None]:  # noqa: ASYNC110 - the server's clock sets no event of ours
            await asyncio.sleep(0.05)
    await cache.close()


async def test_what_is_asked_at_the_same_time_is_asked_together(cache: EmbeddingCache) -> None:
    keys = [secrets.token_hex(8) for _ in range(300)]
    await asyncio.gather(*(cache.put({key: key.encode() * 100}) for key in keys))
    found = await asyncio.gather(*(cache.get([key, "nobody's"]) for key in keys))
    assert found == [[key.encode() * 100, None] for key in keys]


async def test_who_leaves_takes_no_answer_from_the_others(redis: str) -> None:
    cache, key = RedisCache(redis, ttl_s=60), secrets.token_hex(8)
    await cache.put({key: b"1"})
    leaving, staying = (asyncio.create_task(cache.get([key])) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == [b"1"]
    assert await cache.get([key]) == [b"1"]
    await cache.close()


async def test_a_server_that_is_killed_costs_nothing_but_hits_and_is_found_again(redis_server: Redis) -> None:
    back = asyncio.Event()

    async def sleep(_: float) -> None:
        await back.wait()

    cache, errors = RedisCache(redis_server.url, ttl_s=60, sleep=sleep), counted()
    await cache.put({"a": b"1"})
    redis_server.kill()
    try:
        assert await cache.get(["a"]) == [None]
        assert counted() > errors
        start = time.perf_counter()
        for _ in range(100):
            assert await cache.get(["a", "b"]) == [None, None]
            await cache.put({"a": b"1"})
        assert time.perf_counter() - start < 0.1, "a server that is away is not asked at each request"
        with pytest.raises(DependencyUnavailable, match="MODELMORA_CACHE_URL"):
            await cache.ping()
    finally:
        redis_server.start()
    back.set()
    async with asyncio.timeout(10):
        while await cache.get(["a"]) != [b"2"]:
            await cache.put({"a": b"2"})
            await asyncio.sleep(0)
    await cache.close()


async def test_a_server_that_never_answers_costs_one_timeout_however_long_it_is_silent() -> None:
    port = reserve_port()
    held: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: held.append(writer), "127.0.0.1", port)
    looks = asyncio.Semaphore(0)

    async def sleep(_: float) -> None:
        await looks.acquire()

    cache = RedisCache(f"redis://:secret@127.0.0.1:{port}/0", ttl_s=60, timeout_s=0.1, sleep=sleep)
    assert await asyncio.gather(*(cache.get(["a"]) for _ in range(100))) == [[None]] * 100
    looks.release()
    await asyncio.sleep(0)  # it is being looked at, and nobody waits for that
    start = time.perf_counter()
    for _ in range(100):
        assert await cache.get(["a"]) == [None]
        await cache.put({"a": b"1"})
    assert time.perf_counter() - start < 0.1
    with pytest.raises(DependencyUnavailable) as told:
        await cache.ping()
    assert "secret" not in str(told.value)
    await cache.close()
    for writer in held:
        writer.close()
    silent.close()


async def test_a_server_that_is_full_is_still_read(tmp_path: Path) -> None:
    with components():
        server = Redis(tmp_path)
    server.start()
    cache = RedisCache(server.url, ttl_s=60)
    try:
        await cache.put({"a": b"1"})
        admin = Client.from_url(server.url)
        await cast("Awaitable[Any]", admin.config_set("maxmemory", "1"))
        await admin.aclose()
        errors = counted()
        await cache.put({"b": b"2"})
        assert counted() == errors + 1
        assert await cache.get(["a", "b"]) == [b"1", None]
    finally:
        await cache.close()
        server.stop()


async def test_a_cache_that_is_closed_answers_who_still_waits() -> None:
    never = asyncio.Event()

    async def work(entries: Mapping[str, None]) -> list[str]:
        await never.wait()
        return list(entries)

    together: Together[None, list[str]] = Together(work, otherwise=[], at_most=1)
    asking = [asyncio.create_task(together.ask({key: None})) for key in "ab"]
    await asyncio.sleep(0)
    await together.close()
    assert await asyncio.gather(*asking) == [[], []]


def counted() -> float:
    return REGISTRY.get_sample_value("modelmora_cache_errors_total") or 0.0


async def test_nothing_is_remembered_where_nothing_shall_be() -> None:
    cache = NullCache()
    await cache.put({"a": b"1"})
    assert await cache.get(["a"]) == [None]
