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

from load.bench import control
from tests.e2e.callers import call_for, kill_one_engine, kill_one_runner
from tests.e2e.serving import SHARED, Server, noop
from tests.support import wait_until


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("workers", "kill"),
    [
        (1, kill_one_engine),
        pytest.param(1, kill_one_runner, marks=pytest.mark.nightly),
        pytest.param(2, kill_one_runner, marks=pytest.mark.nightly),
    ],
)
async def test_a_killed_runner_costs_no_caller_anything_and_comes_back(
    start_server: Callable[..., Server],
    workers: int,
    kill: Callable[[Server], None],
    record_property: Callable[[str, object], None],
) -> None:
    server = start_server(registry=noop(workers=workers))
    server.wait_ready()
    wait_until(lambda: len(live(server)) == workers, within_s=60, what="all runners")
    before = {p.pid for p in server.engines()}
    answers, longest = await call_for(60.0, server, after_s=10.0, then=lambda: kill(server))
    record_property("answers", answers)
    record_property("longest_s", round(longest, 1))
    assert answers > 1000
    assert longest < (10.0 if kill is kill_one_engine else 60.0)
    wait_until(lambda: len(live(server)) == workers, within_s=60, what="the runner's return")
    after = {p.pid for p in server.engines()}
    assert len(after) == workers
    assert len(after & before) == workers - 1


def live(server: Server) -> list[str]:
    body = httpx.get(f"{server.url}/readyz").json()
    return ["runner"] * int(body["runners"]["default"]["ready"])


@pytest.mark.timeout(180)
async def test_an_item_that_crashes_its_runner_is_answered_and_so_is_everybody_else(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(registry=noop(config='crash_on: "poison"'))
    server.wait_ready()
    async with httpx.AsyncClient(base_url=server.url, timeout=70.0) as client:
        poison = asyncio.create_task(client.post("/v1/embed/text", json={"texts": ["poison"]}))
        good = [await client.post("/v1/embed/text", json={"texts": [f"good {i}"]}) for i in range(20)]
        answer = await poison
    assert answer.status_code == 500
    assert "the runner ended 2 times while it computed this item" in answer.json()["detail"]
    assert [one.status_code for one in good] == [200] * 20


@pytest.mark.timeout(180)
async def test_a_killed_api_worker_leaves_no_work_behind_and_comes_back(start_server: Callable[..., Server]) -> None:
    server = start_server(registry=noop(config="delay_ms: 1500"), env={"MODELMORA_API_WORKERS": "2", **SHARED})
    server.wait_ready()
    wait_until(lambda: len(server.workers("modelmora")) == 2, within_s=60, what="both API workers")
    async with httpx.AsyncClient(base_url=server.url, timeout=70.0) as client:

        async def ask(number: int) -> int:
            try:
                return (await client.post("/v1/embed/text", json={"texts": [f"{number}"]})).status_code
            except httpx.TransportError:  # the connection died with its worker: whoever calls over HTTP asks again
                return 0

        asking = [asyncio.create_task(ask(number)) for number in range(40)]
        await asyncio.sleep(1.0)
        server.workers("modelmora")[0].kill()
        codes = await asyncio.gather(*asking)

    assert set(codes) <= {0, 200}
    assert codes.count(200) > 0
    wait_until(lambda: len(server.workers("modelmora")) == 2, within_s=60, what="the API worker's return")
    wait_until(lambda: queued(server) == 0, within_s=10, what="a runner without work")
    assert len(server.engines()) == 1


def queued(server: Server) -> int:
    """Items that wait in runners, as the metrics tell it."""
    return int(control.metric(server.http_port, "modelmora_queue_depth"))


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
