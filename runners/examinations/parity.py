"""`verify`: a model in every form it may have, compared with torch in fp32 and timed, beside its running work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import structlog

from modelmora.domain.models import ModelSpec
from modelmora.errors import CapabilityMissing, ModelLoadFailed, OutOfMemory
from modelmora.ports import Footprint
from runners import devices
from runners.engines.conversions import PassingTrouble
from runners.examinations.conclusion import Conclusion, Findings
from runners.examinations.likeness import inputs, samples
from runners.examinations.trial import AS_ASKED, Pace, Taken, batches, take, time_batches
from runners.forms import (
    GATE,
    REFERENCE,
    Choosable,
    Form,
    Likeness,
    allowed,
    choose,
    first,
    form_of,
    undecided,
)
from runners.provider import Loaded

if TYPE_CHECKING:
    from runners.host import RunnerHost

log = structlog.get_logger(__name__)

LOOK_S = 0.5
ROOM_S = 60.0
"""How long a copy may wait for room that others hold."""
_GOING: set[asyncio.Task[Any]] = set()


@dataclass(slots=True)
class Course:
    """How far a verification is, in batches over all its forms."""

    total: int = 0
    done: int = 0

    def step(self, stage: str, form: Form) -> dict[str, Any]:
        return {"stage": stage, **form.to_dict(), "done": self.done, "total": self.total}


async def verify(
    host: RunnerHost, spec: ModelSpec, *, deadline: float, pace: Pace = AS_ASKED
) -> AsyncGenerator[dict[str, Any], None]:
    """Steps, then the report; what `auto` takes from the next load on is stored before it is told.

    The network that serves is measured as it is; every other form is a copy that goes when it is measured, exported
    first where another library runs it. One that cannot be exported, loaded or run is told as such. Raises
    CapabilityMissing, OutOfMemory (no room for a copy), what loading and the pace raise: then nothing is decided.
    """
    provider, found, course = _choosable(host, spec), Findings(), Course()
    await pace.turn()
    async with host.pool.lease(spec) as loaded:
        device = loaded.device
    among = await asyncio.to_thread(allowed, spec, provider, device)
    async for step in _export(host, spec, among, into=found, course=course, pace=pace):  # which may take minutes
        yield step
    await pace.turn()  # meanwhile it may have been unloaded, and is not to be loaded for this
    async with host.pool.lease(spec) as loaded:
        serving, usual = form_of(loaded), first(_as_open(spec), provider, device)
        given = await asyncio.to_thread(lambda: inputs(loaded, samples()))
        forms = tuple(dict.fromkeys((serving, REFERENCE, usual, *among)))
        found.forget(serving)  # whatever became of its next export: it is here
        there = [form for form in forms if form not in found.far and form not in found.failed]
        course.total = sum(batches(loaded, items) for items in given.values()) * len(there)
        for form in there:
            yield course.step("loading", form)
            try:
                async with _network(host, spec, loaded, form, deadline=deadline, pace=pace) as network:
                    found.taken[form] = Taken()
                    async for _ in take(host.batcher, network, given, into=found.taken[form], pace=pace):
                        course.done += 1
                        yield course.step("measuring", form)
                    async for _ in time_batches(
                        host.batcher, network, given, beside=loaded, taken=found.taken, pace=pace
                    ):
                        course.done += 1
                        yield course.step("timing", form)
            except ModelLoadFailed as error:
                if form in (REFERENCE, serving) or error.retry_after_s is not None:
                    raise
                found.failed[form] = error.detail
        measured = [found.measured(form) for form in forms]
        conclusion = Conclusion(
            measured=measured, usual=usual, auto=choose(measured, usual, among), lasting=not found.passing
        )
        yield {"stage": "report", **await asyncio.to_thread(_conclude, host, spec, loaded, conclusion)}


async def _export(
    host: RunnerHost, spec: ModelSpec, among: Sequence[Form], *, into: Findings, course: Course, pace: Pace
) -> AsyncIterator[dict[str, Any]]:
    """The networks of other libraries, while nothing of the model is held; what cannot be had is among the findings."""
    for form in among:
        if form.engine == "torch":
            continue
        await pace.turn()
        yield course.step("exporting", form)
        wanted = form.put_into(spec)
        reporting = asyncio.create_task(_reported(host, wanted, threads=pace.threads))
        try:
            while not reporting.done():
                pace.still()
                await asyncio.wait({reporting}, timeout=LOOK_S)
            report = reporting.result()
        except ModelLoadFailed as error:
            into.failed[form] = error.detail
            into.passing = into.passing or isinstance(error, PassingTrouble)
            continue
        finally:
            reporting.cancel()
            await asyncio.wait({reporting})
        near = {task: Likeness(**told) for task, told in report["likeness"].items()}
        if any(not one.lowest >= GATE for one in near.values()):
            into.far[form] = near


async def _reported(host: RunnerHost, wanted: ModelSpec, *, threads: int) -> Mapping[str, Any]:
    async with host.files(wanted) as folder:
        return await host.conversions.report(wanted, host.provider(wanted), folder, threads=threads)


def _choosable(host: RunnerHost, spec: ModelSpec) -> Choosable:
    provider = host.provider(spec)
    if not isinstance(provider, Choosable):
        raise CapabilityMissing(f"models of provider {spec.provider} have one precision only: nothing to verify")
    return provider


def _as_open(spec: ModelSpec) -> ModelSpec:
    """The row that `verify` finds an answer for: one that leaves nothing open is told of what `auto` would be."""
    return spec if undecided(spec) or spec.exported else replace(spec, precision="auto")


@contextlib.asynccontextmanager
async def _network(
    host: RunnerHost, spec: ModelSpec, loaded: Loaded, form: Form, *, deadline: float, pace: Pace
) -> AsyncIterator[Loaded]:
    """The model in a form: the loaded one if it is, else a copy, in the pool's books like any other model."""
    if form_of(loaded) == form:
        yield loaded
        return
    copy = replace(
        form.put_into(spec),
        version=f"{spec.version}+{form.engine}.{form.precision}.copy",
        device=loaded.device,
        default=False,
        pin=False,
    )
    await pace.turn()
    need, home = _ask_for_room(host, spec, loaded, form, pace), devices.memory_home(loaded.device)
    host.pool.inform([Footprint(model=copy.key, device=home, precision=copy.form, bytes=need)])
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


def _ask_for_room(host: RunnerHost, spec: ModelSpec, loaded: Loaded, form: Form, pace: Pace) -> int:
    """What the copy will take, with batches that are no smaller in a narrower form.

    Raises OutOfMemory where it can never fit beside the model, or not without evicting where that may not be: the pool
    would wait for what cannot come, since the model itself is held meanwhile.
    """
    home = devices.memory_home(loaded.device)
    budget, held = host.pool.budget_bytes(home), {one.model: one.bytes for one in host.pool.holdings()}
    own = max(held.get(spec.key, 0), loaded.weight_bytes)
    ratio = form.bytes_per_weight / form_of(loaded).bytes_per_weight
    need = int(loaded.weight_bytes * ratio + (own - loaded.weight_bytes) * max(1.0, ratio))
    beside = own if pace.evicts else host.pool.held_bytes(home)
    if budget and beside + need > budget:
        raise OutOfMemory(
            f"to compare {spec.key} with itself in {form} takes {need / 2**20:.0f} MiB more; "
            f"{beside / 2**20:.0f} of the budget of {budget / 2**20:.0f} MiB are held; raise groups.*.resources.memory"
        )
    return need


def _conclude(host: RunnerHost, spec: ModelSpec, loaded: Loaded, found: Conclusion) -> dict[str, Any]:
    """The report, its decision stored and logged."""
    provider, told = _choosable(host, spec), found.report(spec, loaded)
    question = host.decisions.question(_as_open(spec), provider, host.locate(spec), loaded.device)
    if found.lasting:
        host.decisions.store(question, found.auto, {"measured": told})
    log.info(
        "precision_resolved" if found.lasting else "precision_unresolved",
        model=spec.name,
        version=spec.version,
        device=loaded.device,
        **found.auto.to_dict(),
        cosines={str(one.form): {task: near.lowest for task, near in one.likeness.items()} for one in found.measured},
        ms={str(one.form): one.total_ms for one in found.measured},
    )
    return told
