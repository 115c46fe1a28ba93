"""`verify`: a model in every format its device is made for, compared with fp32 and timed, beside its running work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import structlog

from modelmora.domain.models import ModelSpec
from modelmora.errors import CapabilityMissing, ModelLoadFailed, OutOfMemory
from modelmora.ports import Footprint
from runners import devices
from runners.examinations.likeness import inputs, likeness, samples
from runners.examinations.trial import AS_ASKED, Pace, Taken, batches, take, time_batches
from runners.precision import BYTES, GATE, Choosable, Concrete, Measured, choose, verdict
from runners.provider import Loaded

if TYPE_CHECKING:
    from runners.host import RunnerHost

log = structlog.get_logger(__name__)

ROOM_S = 60.0
"""How long a copy may wait for room that others hold."""
_GOING: set[asyncio.Task[Any]] = set()


@dataclass(slots=True)
class Course:
    """How far a verification is, in batches over all its formats."""

    total: int
    done: int = 0

    def step(self, stage: str, format_: str) -> dict[str, Any]:
        return {"stage": stage, "precision": format_, "done": self.done, "total": self.total}


async def verify(
    host: RunnerHost, spec: ModelSpec, *, deadline: float, pace: Pace = AS_ASKED
) -> AsyncGenerator[dict[str, Any], None]:
    """Steps, then the report; what `auto` takes from the next load on is stored before it is told.

    The network that serves is measured as it is; every other format is a copy that goes when it is measured. One that
    cannot be loaded or run is told as such. Raises CapabilityMissing, OutOfMemory (no room for a copy), what loading
    and the pace raise: then nothing is decided.
    """
    provider = _choosable(host, spec)
    if spec.exported:
        said = "it was compared with torch when it was exported, and is not loaded below the gate"
        raise CapabilityMissing(f"{spec.key} is run by {spec.engine}: {said}", field="engine")
    async with host.pool.lease(spec) as loaded:
        loaded_in = cast(Concrete, loaded.precision)
        given = await asyncio.to_thread(lambda: inputs(loaded, samples()))
        formats = tuple(dict.fromkeys((loaded_in, "fp32", *provider.precisions(loaded.device))))
        course = Course(sum(batches(loaded, items) for items in given.values()) * len(formats))
        taken, failed = dict[Concrete, Taken](), dict[Concrete, str]()
        for format_ in formats:
            yield course.step("loading", format_)
            try:
                async with _network(host, spec, loaded, format_, deadline=deadline, pace=pace) as network:
                    taken[format_] = Taken()
                    async for _ in take(host.batcher, network, given, into=taken[format_], pace=pace):
                        course.done += 1
                        yield course.step("measuring", format_)
                    async for _ in time_batches(host.batcher, network, given, beside=loaded, taken=taken, pace=pace):
                        course.done += 1
                        yield course.step("timing", format_)
            except ModelLoadFailed as error:
                if format_ in ("fp32", loaded_in) or error.retry_after_s is not None:
                    raise
                failed[format_] = error.detail
        measured = [_measured(format_, taken, failed) for format_ in formats]
        yield {"stage": "report", **await asyncio.to_thread(_conclude, host, spec, provider, loaded, measured)}


def _choosable(host: RunnerHost, spec: ModelSpec) -> Choosable:
    provider = host.provider(spec)
    if not isinstance(provider, Choosable):
        raise CapabilityMissing(f"models of provider {spec.provider} have one precision only: nothing to verify")
    return provider


@contextlib.asynccontextmanager
async def _network(
    host: RunnerHost, spec: ModelSpec, loaded: Loaded, format_: Concrete, *, deadline: float, pace: Pace
) -> AsyncIterator[Loaded]:
    """The model in a format: the loaded one if it is, else a copy, in the pool's books like any other model."""
    if loaded.precision == format_:
        yield loaded
        return
    copy = replace(
        spec,
        version=f"{spec.version}+{format_}.copy",
        precision=format_,
        device=loaded.device,
        default=False,
        pin=False,
    )
    await pace.turn()
    need, home = _ask_for_room(host, spec, loaded, format_, pace), devices.memory_home(loaded.device)
    host.pool.inform([Footprint(model=copy.key, device=home, precision=format_, bytes=need)])
    async with _passing(host, copy, within_s=min(ROOM_S, max(0.0, deadline - time.monotonic()))) as network:
        yield network


@contextlib.asynccontextmanager
async def _passing(host: RunnerHost, copy: ModelSpec, *, within_s: float) -> AsyncIterator[Loaded]:
    """A model that goes when the block ends. Who gives up while it is loading does not wait for its end."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(within_s):
                network = await stack.enter_async_context(host.pool.lease(copy))
        except BaseException as cause:
            going = asyncio.create_task(host.pool.unload(copy))
            _GOING.add(going)
            going.add_done_callback(_GOING.discard)
            if not isinstance(cause, TimeoutError):
                raise
            said = f"no room for {copy.key} within {within_s:.0f} s: others are in use"
            raise OutOfMemory(said, retry_after_s=5.0) from None
        try:
            yield network
        finally:
            await stack.aclose()
            await host.pool.unload(copy)


def _ask_for_room(host: RunnerHost, spec: ModelSpec, loaded: Loaded, format_: Concrete, pace: Pace) -> int:
    """What the copy will take, with batches that are no smaller in a narrower format.

    Raises OutOfMemory where it can never fit beside the model, or not without evicting where that may not be: the pool
    would wait for what cannot come, since the model itself is held meanwhile.
    """
    home = devices.memory_home(loaded.device)
    budget, held = host.pool.budget_bytes(home), {one.model: one.bytes for one in host.pool.holdings()}
    own = max(held.get(spec.key, 0), loaded.weight_bytes)
    ratio = BYTES[format_] / BYTES[cast(Concrete, loaded.precision)]
    need = int(loaded.weight_bytes * ratio + (own - loaded.weight_bytes) * max(1.0, ratio))
    beside = own if pace.evicts else host.pool.held_bytes(home)
    if budget and beside + need > budget:
        raise OutOfMemory(
            f"to compare {spec.key} with itself in {format_} takes {need / 2**20:.0f} MiB more; "
            f"{beside / 2**20:.0f} of the budget of {budget / 2**20:.0f} MiB are held; raise groups.*.resources.memory"
        )
    return need


def _measured(format_: Concrete, taken: dict[Concrete, Taken], failed: dict[Concrete, str]) -> Measured:
    if format_ in failed:
        return Measured(precision=format_, likeness={}, ms={}, failed=failed[format_])
    reference, own = taken["fp32"], taken[format_]
    near = {task: likeness(rows, reference.vectors[task]) for task, rows in own.vectors.items()}
    return Measured(precision=format_, likeness=near, ms=own.ms)


def _conclude(
    host: RunnerHost, spec: ModelSpec, provider: Choosable, loaded: Loaded, measured: Sequence[Measured]
) -> dict[str, Any]:
    """The report, its decision stored and logged."""
    told = report(spec, loaded, measured)
    key = host.decisions.key(spec, provider.files(spec, host.locate(spec)), loaded.device)
    host.decisions.store(key, told["auto"], {"measured": told})
    log.info(
        "precision_resolved",
        model=spec.name,
        version=spec.version,
        device=loaded.device,
        precision=told["auto"],
        cosines={one.precision: {task: near.lowest for task, near in one.likeness.items()} for one in measured},
        ms={one.precision: one.total_ms for one in measured},
    )
    return told


def report(spec: ModelSpec, loaded: Loaded, measured: Sequence[Measured]) -> dict[str, Any]:
    """What was measured, JSON-ready; `passes` is of the model as it is loaded."""
    fp32 = next(one for one in measured if one.precision == "fp32")
    return {
        "model": spec.name,
        "version": spec.version,
        "device": loaded.device,
        "precision": loaded.precision,
        "declared": spec.precision,
        "gate": GATE,
        "passes": any(one.passes for one in measured if one.precision == loaded.precision),
        "auto": choose(measured),
        "candidates": [
            {
                "precision": one.precision,
                "verdict": verdict(one, fp32),
                "likeness": {task: asdict(near) for task, near in one.likeness.items()},
                "ms": dict(one.ms),
                "failed": one.failed,
            }
            for one in measured
        ],
    }
