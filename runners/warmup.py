"""Warming a model up: every batch size that callers will make, once, smallest first, timed and measured."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import structlog

from modelmora.domain.models import ModelSpec, Task
from modelmora.ports import Warmed
from runners.batcher import Batcher
from runners.pool import Pool
from runners.provider import Loaded, Tell

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = structlog.get_logger(__name__)


def buckets(largest: int) -> list[int]:
    """1, 2, 4 ... and the largest batch itself."""
    return [*(2**power for power in range((largest - 1).bit_length())), largest]


async def warm(pool: Pool, batcher: Batcher, spec: ModelSpec, tasks: Collection[Task]) -> tuple[Warmed, ...]:
    """Loads the model if need be and runs each bucket of each task; raises what the model raises."""
    warmed: list[Warmed] = []
    async with pool.lease(spec) as loaded:
        largest = spec.batching.max_batch or loaded.description.max_batch
        for task in sorted(tasks):
            sample = loaded.sample(task)
            for items in buckets(largest):
                clocked = _Clocked(pool, spec, loaded)
                await batcher.run_alone(cast(Loaded, clocked), task, [sample] * items)
                warmed.append(Warmed(task=task, items=items, ms=clocked.ms))
    batches = [f"{w.task} {w.items}: {w.ms:.1f} ms" for w in warmed]
    log.info("model_warm", model=spec.name, version=spec.version, batches=batches)
    return tuple(warmed)


@dataclass(slots=True)
class _Clocked:
    """The model as one batch runs it: how long it takes without its wait for a lane, and how much memory."""

    pool: Pool
    spec: ModelSpec
    loaded: Loaded
    ms: float = 0.0

    def run(
        self, task: Task, batch: Sequence[NDArray[np.generic]], *, threads: int = 0, tell: Tell | None = None
    ) -> NDArray[np.float32]:
        with self.pool.measuring(self.spec, task, len(batch)):
            started = time.perf_counter()
            rows = self.loaded.run(task, batch, threads=threads, tell=tell)
            self.ms = (time.perf_counter() - started) * 1e3
        return rows
