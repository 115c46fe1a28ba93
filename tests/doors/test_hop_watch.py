"""What a worker tells those who watch it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

from modelmora.proto import runner_pb2 as pb
from runners.hop.servicer import WATCH_PERIOD_S, RunnerServicer
from tests.doors.hop import Hop, own
from tests.fakes import until


async def test_a_change_while_a_view_is_on_its_way_is_told_at_once(tmp_path: Path) -> None:
    async with Hop(tmp_path, own()) as hop:
        host = await hop.host()
        await until(lambda: host.ready)
        async with aclosing(cast(Any, RunnerServicer(host).Watch(pb.WatchRequest(), cast(Any, None)))) as views:
            await anext(views)

            host.changed.set()

            async with asyncio.timeout(WATCH_PERIOD_S / 2):
                await anext(views)
