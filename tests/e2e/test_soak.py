"""Ten minutes of callers with a runner killed every minute: nothing fails, nothing grows without end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.callers import call_for, kill_one_runner
from tests.e2e.serving import Server, noop

ROUNDS = 10
GROWTH_BYTES = 48 * 2**20


@pytest.mark.nightly
@pytest.mark.timeout(1800)
async def test_ten_minutes_with_a_runner_killed_every_minute(start_server: Callable[..., Server]) -> None:
    server = start_server(registry=noop(workers=2))
    server.wait_ready()
    sizes = []
    for _ in range(ROUNDS):
        answers, longest = await call_for(60.0, server, after_s=20.0, then=lambda: kill_one_runner(server))
        assert answers > 1000
        assert longest < 60.0
        (api,) = server.workers("modelmora")
        sizes.append(api.memory_info().rss)
    assert sizes[-1] - sizes[1] < GROWTH_BYTES, sizes
