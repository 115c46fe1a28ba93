"""Loads, warms and unloads a model over and over: `python -m tests.models.memory_process FOLDER CYCLES`.

Prints JSON: the resident size after each cycle, the most of it while loaded, and what the pool says the model takes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from modelmora import collector
from modelmora.domain.models import Batching, ModelSpec
from runners import devices, families
from runners.batcher import Batcher
from runners.batching.warmup import warm
from runners.devices import Share
from runners.memory.meters import HostMeter
from runners.pool import Pool
from tests.folders import Folders

SPEC = ModelSpec(
    name="tested",
    version="1.0.0",
    type="embedding",
    provider="open_clip",
    source="file:tested",
    batching=Batching(max_batch=8),
)


async def cycles(folder: Path, count: int) -> dict[str, Any]:
    devices.before_torch(1)
    pool = Pool(families.provider, Folders(lambda _: folder).using, share=Share(threads=1, budget_bytes=0))
    batcher, meter = Batcher(pool), HostMeter()
    resident, most, footprints = [], [], []
    for cycle in range(count):
        await pool.load(SPEC)
        meter.start()
        await warm(pool, batcher, SPEC, families.provider("open_clip").tasks())
        most.append(meter.finish()[0])
        if cycle == 0:
            collector.settle()  # as a worker does once its defaults are there: what exists is never walked again
        await asyncio.sleep(0)
        footprints.append(pool.held_bytes())
        await pool.unload(SPEC)
        resident.append(devices.resident())
    baseline = meter.used()
    await batcher.close()
    await pool.close()
    return {"resident": resident, "most": [peak - baseline for peak in most], "footprints": footprints}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(cycles(Path(sys.argv[1]), int(sys.argv[2])))))  # noqa: T201 - what the test reads
