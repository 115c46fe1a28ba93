"""Nothing a caller asked is lost when a runner is killed; nothing outlives its supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import httpx
import psutil
import pytest

from tests.e2e.callers import call_for, kill_one_runner
from tests.e2e.serving import Server, noop
from tests.support import wait_until


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_killed_runner_costs_no_caller_anything_and_comes_back(
    start_server: Callable[..., Server], workers: int, record_property: Callable[[str, object], None]
) -> None:
    server = start_server(registry=noop(workers=workers))
    server.wait_ready()
    wait_until(lambda: len(live(server)) == workers, within_s=60, what="all runners")
    before = {p.pid for p in server.workers("runner-default")}
    answers, longest = await call_for(60.0, server, after_s=10.0, then=lambda: kill_one_runner(server))
    record_property("answers", answers)
    record_property("longest_s", round(longest, 1))
    assert answers > 1000
    assert longest < 60.0
    wait_until(lambda: len(live(server)) == workers, within_s=60, what="the runner's return")
    after = {p.pid for p in server.workers("runner-default")}
    assert len(after) == workers
    assert len(after & before) == workers - 1


def live(server: Server) -> list[str]:
    body = httpx.get(f"{server.url}/readyz").json()
    return ["runner"] * int(body["runners"]["default"]["ready"])


@pytest.mark.timeout(180)
async def test_a_runner_that_crashes_on_an_item_fails_that_item_at_its_deadline_and_nobody_else(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(registry=noop(config='crash_on: "poison"'))
    server.wait_ready()
    async with httpx.AsyncClient(base_url=server.url, timeout=70.0) as client:
        poison = asyncio.create_task(
            client.post("/v1/embed/text", json={"texts": ["poison"]}, headers={"x-modelmora-timeout-ms": "3000"})
        )
        await asyncio.sleep(1.0)
        good = await client.post("/v1/embed/text", json={"texts": ["good"]})
        assert (await poison).status_code in (503, 504)
        assert good.status_code == 200, good.text


@pytest.mark.timeout(120)
def test_workers_end_themselves_when_the_supervisor_is_killed(start_server: Callable[..., Server]) -> None:
    server = start_server(registry=noop())
    server.wait_ready()
    family = server.family()
    assert len(family) >= 3
    os.kill(server.process.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family[1:], timeout=40.0)
    assert alive == []


@pytest.mark.timeout(120)
async def test_sigterm_finishes_what_runs_and_tells_the_health_watchers_first(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(registry=noop(config="delay_ms: 3000"))
    server.wait_ready()
    async with httpx.AsyncClient(base_url=server.url, timeout=30.0) as client:
        running = asyncio.create_task(client.post("/v1/embed/text", json={"texts": ["slow"]}))
        await asyncio.sleep(1.0)
        server.process.send_signal(signal.SIGTERM)
        answer = await running
    assert answer.status_code == 200, answer.text
    started = time.monotonic()
    server.process.wait(30)
    assert time.monotonic() - started < 15.0
