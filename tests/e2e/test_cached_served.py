"""Embeddings that a server remembers in Redis: found by whichever way they are asked for, and done without."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from load.components.redis import Redis
from modelmora.client import Client
from modelmora.domain.inference import Text
from modelmora.domain.outcome import unwrap
from tests.e2e.serving import Server, noop
from tests.support import components, wait_until

_SAMPLE = re.compile(r'^modelmora_cache_requests_total\{code="(\w+)",task="embed_text"\} (\S+)$', re.MULTILINE)


def said(server: Server) -> dict[str, float]:
    """What came of the texts that the cache was asked for."""
    found = _SAMPLE.findall(httpx.get(f"{server.url}/metrics").text)
    return {code: float(count) for code, count in found}


def embedded(server: Server, text: str) -> bytes:
    """The vector's float32."""
    reply = httpx.post(f"{server.url}/v1/embed/text", json={"texts": [text]}, timeout=60.0)
    assert reply.status_code == 200, reply.text
    return np.array(reply.json()["data"][0]["embedding"], np.float32).tobytes()


def cache_of(server: Server) -> dict[str, Any]:
    """What health says of it."""
    found: dict[str, Any] = httpx.get(f"{server.url}/health", timeout=10.0).json()["dependencies"]["cache"]
    return found


async def test_what_was_embedded_once_is_found_by_every_face_and_a_cache_that_dies_costs_hits_alone(
    tmp_path: Path, start_server: Callable[..., Server]
) -> None:
    with components():
        redis = Redis(tmp_path)
    redis.start()
    try:
        server = start_server(registry=noop(), env={"MODELMORA_CACHE_URL": redis.url})
        server.wait_ready()
        first = embedded(server, "a red circle")
        assert embedded(server, "a red circle") == first
        async with Client(server.grpc_url) as client:
            batch = [unwrap(outcome) async for _, outcome in client.generate_batch([Text("a red circle")] * 3)]
        assert [np.asarray(vector).tobytes() for vector in batch] == [first] * 3
        assert said(server) == {"miss": 1.0, "hit": 4.0}
        assert cache_of(server)["status"] == "ok"
        redis.kill()
        assert embedded(server, "a red circle") == first
        assert said(server)["miss"] == 2.0
        wait_until(lambda: cache_of(server)["status"] != "ok", within_s=30, what="health to say that the cache is away")
        redis.start()
        wait_until(lambda: cache_of(server)["status"] == "ok", within_s=30, what="health to say that it is back")
        hits = said(server)["hit"]

        def found_again() -> bool:
            assert embedded(server, "a red circle") == first
            return said(server)["hit"] > hits

        wait_until(found_again, within_s=30, what="an embedding to be remembered again")
    finally:
        redis.stop()
