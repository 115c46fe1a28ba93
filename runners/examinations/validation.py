"""`validate`: whether the files of a version are what they are said to be, and what running them takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec, Task
from modelmora.domain.outcome import Failed
from modelmora.errors import ModelLoadFailed, ModelMoraError, SchemaMismatch, ValidationFailed
from modelmora.imports.formats import Sniffed, refuse_executable, sniff
from runners.capabilities import Given, judged
from runners.provider import Loaded

if TYPE_CHECKING:
    from runners.host import RunnerHost

TIMES = 20
"""One item alone, so often for each task; of these the median and the 95th percentile."""

_DESCRIPTION = TypeAdapter(Description)
STAGES = ("fetching", "reading", "loading", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Milliseconds of one item alone of the slowest task, and bytes with a full batch."""

    p50_ms: float
    p95_ms: float
    memory_bytes: int
    device: str
    engine: str
    precision: str


@dataclass(slots=True)
class _Times:
    of: dict[Task, list[float]] = field(default_factory=dict)

    def slowest(self) -> tuple[float, float]:
        """Median and 95th percentile."""
        cuts = [quantiles(times, n=20, method="inclusive") for times in self.of.values()]
        return max((cut[9], cut[18]) for cut in cuts)


async def validate(host: RunnerHost, spec: ModelSpec, *, deadline: float) -> AsyncGenerator[dict[str, Any], None]:
    """Fetched, read without being run, loaded, and run; the report has the model's schema and what was measured.

    Raises ValidationFailed for a pickle that would run something, SchemaMismatch for answers that are not as the model
    describes them, and what loading and running raise. What was not in memory before is not afterwards.
    """
    was_here = host.pool.peek(spec) is not None
    yield _step(0)
    async with host.files(spec) as folder:
        yield _step(1)
        told = await asyncio.to_thread(_read, folder)
        yield _step(2)
        times = _Times()
        try:
            async with host.pool.lease(spec) as loaded:
                yield _step(3)
                await _run(host, spec, loaded, times)
                report = _report(host, spec, loaded, times)
        except ModelLoadFailed as error:
            raise _explained(spec, error, told) from error
        finally:
            if not was_here:
                await asyncio.shield(host.pool.unload(spec))
    yield {"stage": "report", **report}


def _step(done: int) -> dict[str, Any]:
    return {"stage": STAGES[done], "done": done, "total": len(STAGES)}


def _read(folder: Path | None) -> Sniffed | None:
    """Whose files they look like; None where that cannot be told."""
    if folder is None:
        return None
    refuse_executable(folder)
    try:
        return sniff(folder)
    except ValidationFailed:
        return None


async def _run(host: RunnerHost, spec: ModelSpec, loaded: Loaded, times: _Times) -> None:
    """One item many times, then a full batch, whose memory counts; raises SchemaMismatch."""
    for task in sorted(host.provider(spec).tasks()):
        sample = loaded.sample(task)
        await host.batcher.run_alone(loaded, task, [sample])  # the first is never as fast
        for _ in range(TIMES):
            given, seconds = await host.batcher.run_alone(loaded, task, [sample])
            times.of.setdefault(task, []).append(seconds * 1e3)
        for wrong in _wrong(loaded, task, given):
            raise SchemaMismatch(f"{spec.key}: {wrong}", field="outputs")
        await host.batcher.run_alone(loaded, task, [sample] * loaded.description.max_batch, spec=spec)


def _wrong(loaded: Loaded, task: Task, given: Given) -> Iterator[str]:
    """What is not as the description says."""
    for outcome in judged(loaded, given):
        if isinstance(outcome, Failed):
            yield f"a test input of {task} failed: {outcome.error.detail}"
    if isinstance(given, np.ndarray):
        wanted = len(loaded.description.labels) if task == "classify" else loaded.description.dimension
        if given.shape[1] != wanted:
            yield f"{task} gives {given.shape[1]} numbers an item, and its description says {wanted}"


def _report(host: RunnerHost, spec: ModelSpec, loaded: Loaded, times: _Times) -> dict[str, Any]:
    p50, p95 = times.slowest()
    holding = next(one for one in host.pool.holdings() if one.model == spec.key)
    measured = Measured(
        p50_ms=round(p50, 3),
        p95_ms=round(p95, 3),
        memory_bytes=holding.bytes,
        device=loaded.device,
        engine=spec.engine if spec.exported else "torch",
        precision=loaded.precision,
    )
    return {**_schema(loaded.description), "measured": asdict(measured)}


def _schema(described: Description) -> dict[str, Any]:
    told = _DESCRIPTION.dump_python(described, mode="json")
    return {name: told[name] for name in ("dimension", "labels", "inputs", "outputs")}


def _explained(spec: ModelSpec, error: ModelLoadFailed, told: Sniffed | None) -> ModelMoraError:
    """The files may be another family's."""
    if told is None or told.provider == spec.provider:
        return error
    said = f"{error.detail}; {told.why} is of provider {told.provider}, and it was registered as {spec.provider}"
    return ModelLoadFailed(said, field=error.field or "provider", found=spec.provider, expected=told.provider)
