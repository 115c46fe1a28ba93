"""A runner worker in a process of its own: `python -m tests.doors.runner_process DIRECTORY INDEX CONFIG [HANG_S]`.

CONFIG is the no-op model's configuration as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from modelmora.domain.catalogue import Catalogue
from modelmora.domain.models import Batching, GroupSpec, ModelSpec
from runners import families
from runners.devices import Share
from runners.host import HostSettings, RunnerHost
from tests.folders import Folders


def noop(**config: Any) -> ModelSpec:
    return ModelSpec(
        name="noop",
        version="1.0.0",
        type="embedding",
        provider="noop",
        source="bundled:noop",
        warmup=False,
        config=config,
        batching=Batching(max_batch=4, max_wait_ms=5.0),
    )


async def serve(directory: Path, index: int, config: dict[str, Any], hang_s: float) -> None:
    share = Share(threads=1, budget_bytes=2**30)
    settings = HostSettings(
        group="default", index=index, directory=directory, share=share, drain_timeout_s=1.0, hang_s=hang_s
    )
    catalogue = Catalogue((noop(**config),), (GroupSpec(),))
    await RunnerHost(settings, catalogue, families.provider, Folders()).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    hang_s = float(sys.argv[4]) if len(sys.argv) > 4 else 300.0
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3]), hang_s))
