"""Warming a model up: every batch size that callers will make, once, smallest first, timed and measured."""

from __future__ import annotations

from collections.abc import Collection

import structlog

from modelmora.domain.models import ModelSpec, Task
from modelmora.ports import Warmed
from runners.batcher import Batcher
from runners.pool import Pool

log = structlog.get_logger(__name__)


def buckets(largest: int) -> list[int]:
    """1, 2, 4 ... and the largest batch itself."""
    return [*(2**power for power in range((largest - 1).bit_length())), largest]


async def warm(pool: Pool, batcher: Batcher, spec: ModelSpec, tasks: Collection[Task]) -> tuple[Warmed, ...]:
    """Loads the model if need be and runs each bucket of each task; raises what the model raises."""
    warmed: list[Warmed] = []
    async with pool.lease(spec) as loaded:
        largest = loaded.description.max_batch
        for task in sorted(tasks):
            sample = loaded.sample(task)
            for items in buckets(largest):
                _, seconds = await batcher.run_alone(loaded, task, [sample] * items, spec=spec)
                warmed.append(Warmed(task=task, items=items, ms=seconds * 1e3))
    batches = [f"{w.task} {w.items}: {w.ms:.1f} ms" for w in warmed]
    log.info("model_warm", model=spec.name, version=spec.version, batches=batches)
    return tuple(warmed)
