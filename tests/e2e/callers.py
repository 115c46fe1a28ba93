"""Many callers at once, each checking that it gets its own."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

import httpx

from tests.e2e.serving import Server

CALLERS = 64


async def call_for(seconds: float, server: Server, *, after_s: float, then: Callable[[], None]) -> tuple[int, float]:
    """64 callers for so long, `then` in the middle; how many answers there were and how long the longest took.

    Every answer must be 200 and every caller must get the vector of its own text.
    """
    answers, longest = 0, 0.0
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=CALLERS, max_keepalive_connections=CALLERS)
    async with httpx.AsyncClient(base_url=server.url, timeout=70.0, limits=limits) as client:
        own: dict[int, list[float]] = {}

        async def caller(number: int) -> None:
            nonlocal answers, longest
            while time.monotonic() < until:
                started = time.monotonic()
                answer = await client.post("/v1/embed/text", json={"texts": [f"caller {number}"]})
                assert answer.status_code == 200, answer.text
                vector = answer.json()["data"][0]["embedding"]
                assert own.setdefault(number, vector) == vector
                answers, longest = answers + 1, max(longest, time.monotonic() - started)

        async def strike() -> None:
            await asyncio.sleep(after_s)
            then()

        await asyncio.gather(strike(), *(caller(number) for number in range(CALLERS)))
        assert len({tuple(vector) for vector in own.values()}) == CALLERS
    return answers, longest


def kill_one_engine(server: Server) -> None:
    """The process that holds the models, as the system does that has run out of memory."""
    server.engines()[0].send_signal(signal.SIGKILL)


def kill_one_runner(server: Server) -> None:
    """A whole runner worker at once: what BentoML supervises, the zygote and the engine."""
    worker = server.workers("runner-default")[0]
    for process in (worker, *worker.children(recursive=True)):
        process.send_signal(signal.SIGKILL)
