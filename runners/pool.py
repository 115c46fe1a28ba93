"""The models this worker holds: loaded once however many ask, leased while in use, evicted by age."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import structlog

from modelmora.domain.description import Description
from modelmora.domain.models import ModelSpec, State, Task
from modelmora.errors import InternalError, ModelLoadFailed, ModelMoraError, OutOfMemory
from modelmora.ports import Footprint, Holding
from runners import devices
from runners.batching.lanes import Hung
from runners.memory.entry import Entry
from runners.memory.idleness import Idleness
from runners.memory.loader import Loader
from runners.memory.meters import Meter, meter_of
from runners.memory.room import Room
from runners.process import telemetry
from runners.provider import AnyProvider, Loaded, Tell

log = structlog.get_logger(__name__)

Convert: TypeAlias = Callable[[ModelSpec, Path | None, str], Coroutine[None, None, None]]
"""Makes the files that loading on a device needs besides the model's own; other models are loaded meanwhile."""

Files: TypeAlias = Callable[[ModelSpec], contextlib.AbstractAsyncContextManager[Path | None]]
"""The folder of a model, there for as long as it is held."""

RunInQuiet: TypeAlias = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs the work in a thread while nothing else computes."""


class Pool:
    """Models in least-recently-used order under a budget of bytes a device (0: no limit).

    Not thread-safe but for `measuring`: everything runs on one event loop; loading and freeing happen in
    one thread of their own, one after the other, so that footprints can be measured. `clock` is in seconds.
    """

    def __init__(
        self,
        providers: Callable[[str], AnyProvider],
        files: Files,
        *,
        share: devices.Share,
        on_change: Callable[[], None] = lambda: None,
        convert: Convert | None = None,
        clock: Callable[[], float] = time.monotonic,
        meters: Callable[[str], Meter] = meter_of,
    ) -> None:
        self._files = files
        self._on_change = on_change
        self._convert = convert
        self._clock = clock
        self._run_in_quiet: RunInQuiet | None = None
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._loader = Loader(providers, share=share, meters=meters, on_learnt=self._learnt)
        self._room = Room(share, self._entries, self._free)
        self._idleness = Idleness(self._entries, self._unload_idle, clock=clock)

    def weighs_with(self, run: RunInQuiet) -> None:
        """Who runs the batches lends a way to run one beside nothing else; without it models are weighed in passing."""
        self._run_in_quiet = run

    @property
    def device(self) -> str:
        """Where models go that do not say where."""
        return self._loader.device

    @contextlib.asynccontextmanager
    async def lease(self, spec: ModelSpec, tell: Tell | None = None) -> AsyncIterator[Loaded]:
        """The model, loaded if need be and held until the block ends; raises what loading raises.

        Whoever waits for a load is told on the event loop how many of its bytes are there.
        """
        entry = self._entry(spec)
        entry.claims += 1
        try:
            loaded = await self._loaded(entry, tell)
            self._entries.move_to_end(spec.key)
            log.debug("model_used", model=spec.name, version=spec.version)
            with self._leased(entry):
                yield loaded
        finally:
            entry.claims -= 1
            if entry.claims == 0:
                entry.used_at = self._clock()
                self._room.released.set()

    async def load(self, spec: ModelSpec, tell: Tell | None = None) -> Entry:
        """Loads once, whoever asks; raises what loading raises."""
        async with self.lease(spec, tell):
            return self._entries[spec.key]

    async def unload(self, spec: ModelSpec) -> Entry:
        """Waits for running work, then frees; idempotent. A model that is still being exported is given up at once."""
        entry = self._entry(spec)
        if entry.converting is not None:
            entry.converting.cancel()
        while entry.loading is not None or entry.state == "unloading":
            await (entry.freed.next().wait() if entry.loading is None else asyncio.wait({entry.loading}))
        if entry.state == "loaded":
            await self._retire(entry)
        entry.error, entry.again_at = None, 0.0
        self._show(entry, "unloaded")
        return entry

    @contextlib.contextmanager
    def measuring(self, spec: ModelSpec | None, task: Task, items: int) -> Iterator[None]:
        """Around each batch, in its thread: learns what a batch takes that is larger than any before it.

        Nothing is learnt of a batch that raises, that was not alone in this process, that is larger than those served,
        or that is nobody's (None); whoever measures beside any of them was not alone. Thread-safe.
        """
        entry = None if spec is None else self._entries[spec.key]
        with self._loader.measuring(entry, task, items):
            yield

    def inform(self, footprints: Iterable[Footprint]) -> None:
        """What earlier workers measured: room is made by it until there are own measurements."""
        self._loader.sizes.tell(footprints)

    def holdings(self) -> Sequence[Holding]:
        """Every model touched so far."""
        return [entry.holding() for entry in self._entries.values()]

    def held_bytes(self, device: str | None = None) -> int:
        """The sum of the footprints in a device's memory, or in all; what is being loaded counts as known so far."""
        return self._room.held_bytes(device)

    def budget_bytes(self, device: str) -> int:
        """How much models may take of a device's memory (0: no limit)."""
        return self._room.budget(device)

    def peek(self, spec: ModelSpec) -> Loaded | None:
        """The model if it is in memory, and not on its way out."""
        entry = self._entries.get(spec.key)
        return entry.loaded if entry and entry.state == "loaded" else None

    def described(self, spec: ModelSpec) -> Description | None:
        """What the model said of itself when it was last loaded: some know more of it then than their files say."""
        entry = self._entries.get(spec.key)
        return entry.described if entry else None

    async def close(self) -> None:
        """Frees everything without waiting for leases; what is still loading is given up."""
        await self._idleness.close()
        await self._room.close()
        for entry in list(self._entries.values()):
            if entry.loading is not None:
                entry.loading.cancel()
            if entry.state == "loaded":
                await self._free(entry)
        self._loader.shutdown()

    def _entry(self, spec: ModelSpec) -> Entry:
        entry = self._entries.get(spec.key)
        if entry is None or (entry.spec != spec and entry.claims == 0 and entry.state in ("unloaded", "failed")):
            entry = self._entries[spec.key] = Entry(spec)
        return entry

    async def _loaded(self, entry: Entry, tell: Tell | None) -> Loaded:
        with entry.telling(tell):
            while entry.loaded is None or entry.state == "unloading":
                if entry.state == "unloading":
                    await entry.freed.next().wait()
                    continue
                if entry.loading is None:
                    self._refuse_again(entry)
                    entry.loading = asyncio.create_task(self._load(entry))
                    entry.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.shield(entry.loading)
            return entry.loaded

    def _refuse_again(self, entry: Entry) -> None:
        """A load that failed and said when it may be tried again, such as one that hung, is not tried before."""
        left = entry.again_at - self._clock()
        if entry.error is not None and left > 0:
            raise ModelLoadFailed(entry.error.detail, field=entry.error.field, retry_after_s=left)

    @contextlib.contextmanager
    def _leased(self, entry: Entry) -> Iterator[None]:
        entry.leases += 1
        try:
            yield
        finally:
            entry.leases -= 1
            if entry.leases == 0:
                entry.idle.set()

    async def _load(self, entry: Entry) -> Loaded:
        """Shown as loading, room made, loaded, measured; rolled back on failure."""
        spec, started = entry.spec, time.monotonic()
        self._show(entry, "loading")
        try:
            async with self._files(spec) as folder:
                entry.device = await self._loader.prepare(spec)
                await self._converted(entry, folder)
                loaded = await self._open_in_room(entry, folder)
        except Exception as cause:
            entry.error, entry.loading = _failure(spec, cause), None
            if isinstance(cause, ModelLoadFailed):
                entry.again_at = self._clock() + (cause.retry_after_s or 0.0)
            self._show(entry, "failed")
            telemetry.LOADS.labels(spec.name, spec.version, entry.error.code).inc()
            raise entry.error from cause
        entry.loaded, entry.loading, entry.error = loaded, None, None
        entry.described = loaded.description
        entry.used_at = self._clock()
        entry.loads += 1
        self._entries.move_to_end(spec.key)
        self._show(entry, "loaded")
        self._idleness.appeared(entry)
        _note(entry, time.monotonic() - started)
        return loaded

    async def _converted(self, entry: Entry, folder: Path | None) -> None:
        """Its other files are made; raises what that raises, and ModelLoadFailed where it was unloaded meanwhile."""
        if self._convert is None:
            return
        device = self._loader.device_of(entry.spec)
        entry.converting = asyncio.create_task(self._convert(entry.spec, folder, device))
        try:
            await entry.converting
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            said = f"{entry.spec.key} was unloaded while its networks were exported; load it again"
            raise ModelLoadFailed(said) from None
        finally:
            entry.converting.cancel()
            entry.converting = None

    async def _open_in_room(self, entry: Entry, folder: Path | None) -> Loaded:
        """Opens the model once it fits, waiting while what could make room is in use.

        How large it is is known after its first time, or from earlier workers: else it may have to go again.
        """
        while True:
            released = self._room.released.next()
            async with self._room.changing:
                loaded = await self._try_open(entry, folder)
            if loaded is not None:
                return loaded
            await released.wait()

    async def _try_open(self, entry: Entry, folder: Path | None) -> Loaded | None:
        """Reserves what the model will take, opens it, reckons with what it really takes.

        Gives all back when that fails, or when it does not fit beside what is in use (None).
        """
        opened = kept = None
        try:
            if await self._reserve(entry, folder):
                opened = await self._loader.open(entry, folder)
                await self._weigh(entry, opened)
                kept = opened if await self._room.clear(entry, entry.bytes) else None
            return kept
        finally:
            if kept is None:
                entry.bytes = 0
                if opened is not None:
                    await self._loader.close(opened)

    async def _weigh(self, entry: Entry, loaded: Loaded) -> None:
        """Where there is a budget and nobody knows what the model's batches take, a full one of each task is run
        beside nothing else: under load it would never be alone, and the budget would be passed."""
        if self._run_in_quiet is None or not self.budget_bytes(entry.device):
            return
        for task, items in self._loader.sizes.of(entry.spec, entry.device).unknown.items():
            try:
                await self._run_in_quiet(partial(self._loader.run_full, entry, loaded, task, items))
            except Hung:
                raise
            except Exception as cause:  # its batches will say so too
                log.warning("model_not_weighed", model=entry.spec.name, version=entry.spec.version, why=str(cause))
        entry.bytes = self._loader.sizes.of(entry.spec, entry.device).bytes

    async def _reserve(self, entry: Entry, folder: Path | None) -> bool:
        """Room for what the model is known to take; for one that was never seen, for what its files suggest."""
        known = self._loader.sizes.of(entry.spec, entry.device).bytes
        need = known or await self._loader.guess(entry.spec, folder)
        try:
            made = await self._room.clear(entry, need)
        except OutOfMemory:
            if known:
                raise
            need, made = 0, True  # a guess refuses nobody
        entry.bytes = need if made else 0
        return made

    def _learnt(self, entry: Entry) -> None:
        self._show(entry, entry.state)
        self._room.changed()

    async def _retire(self, entry: Entry) -> None:
        """Lets running work finish, keeps new work waiting, then frees; whoever asked may leave meanwhile."""
        self._show(entry, "unloading")
        try:
            while entry.leases:
                await entry.idle.next().wait()
            await self._room.changing.acquire()
        except asyncio.CancelledError:
            self._show(entry, "loaded")
            entry.freed.set()
            raise
        try:
            await self._free(entry)
        finally:
            self._room.changing.release()

    async def _free(self, entry: Entry) -> None:
        loaded, entry.loaded = entry.loaded, None
        if loaded is None:
            raise InternalError(f"{entry.spec.key} is not loaded")
        self._show(entry, "unloading")
        try:
            await self._loader.close(loaded)
        finally:
            entry.bytes = 0
            self._show(entry, "unloaded")
            entry.freed.set()
            self._room.released.set()

    async def _unload_idle(self, entry: Entry) -> None:
        async with self._room.changing:
            if self._idleness.due(entry):  # it may have been used while others were at it
                log.info("model_idle_unloaded", model=entry.spec.name, version=entry.spec.version, bytes=entry.bytes)
                await self._free(entry)

    def _show(self, entry: Entry, state: State) -> None:
        entry.state = state
        held = sum(e.bytes for e in self._entries.values() if e.loaded is not None and e.device == entry.device)
        telemetry.MODEL_BYTES.labels(entry.spec.name, entry.spec.version).set(entry.holding().bytes)
        telemetry.DEVICE_BYTES.labels(entry.device).set(held)
        self._on_change()


def _note(entry: Entry, seconds: float) -> None:
    """A model was loaded."""
    name, version = entry.spec.name, entry.spec.version
    telemetry.LOADS.labels(name, version, "ok").inc()
    telemetry.LOAD_SECONDS.labels(name, version).observe(seconds)
    log.info(
        "model_loaded", model=name, version=version, ms=round(seconds * 1e3), bytes=entry.bytes, device=entry.device
    )


def _failure(spec: ModelSpec, cause: Exception) -> ModelMoraError:
    log.warning("model_load_failed", model=spec.name, version=spec.version, exc_info=cause)
    if isinstance(cause, ModelMoraError):
        return cause
    if isinstance(cause, MemoryError):
        return ModelLoadFailed(f"{spec.key}: the machine ran out of memory while loading it", retry_after_s=5.0)
    return ModelLoadFailed(f"{spec.key} could not be loaded: {type(cause).__name__}; see the runner's log")
