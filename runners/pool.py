"""The models this worker holds: loaded once however many ask, leased while in use, evicted by age."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import structlog

from modelmora.domain.memory import Held, evictions
from modelmora.domain.models import ModelSpec, State
from modelmora.errors import InternalError, ModelLoadFailed, ModelMoraError
from modelmora.ports import Holding
from runners import devices
from runners.provider import Loaded, Provider

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Entry:
    """One model's place in the pool."""

    spec: ModelSpec
    state: State = "unloaded"
    loaded: Loaded | None = None
    bytes: int = 0
    leases: int = 0
    load_ms: float = 0.0
    error: ModelMoraError | None = None
    loading: asyncio.Task[Loaded] | None = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    freed: asyncio.Event = field(default_factory=asyncio.Event)

    def holding(self) -> Holding:
        return Holding(
            model=self.spec.key,
            state=self.state,
            bytes=self.bytes,
            in_flight=self.leases,
            error=self.error.detail if self.error else None,
        )


class Pool:
    """Models in least-recently-used order under a budget of bytes (0: no limit).

    Not thread-safe: everything runs on one event loop; loading and freeing happen in one thread of
    their own, one after the other, so that footprints can be measured.
    """

    def __init__(
        self,
        providers: Callable[[str], Provider],
        locate: Callable[[ModelSpec], Path | None],
        *,
        share: devices.Share,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._providers = providers
        self._locate = locate
        self._share = share
        self._on_change = on_change
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pool")

    @contextlib.asynccontextmanager
    async def lease(self, spec: ModelSpec) -> AsyncIterator[Loaded]:
        """The model, loaded if need be and held until the block ends; raises what loading raises."""
        entry = self._entry(spec)
        entry.leases += 1
        entry.idle.clear()
        try:
            loaded = await self._loaded(entry)
            self._entries.move_to_end(spec.key)
            yield loaded
        finally:
            entry.leases -= 1
            if entry.leases == 0:
                entry.idle.set()

    async def load(self, spec: ModelSpec) -> Entry:
        """Loads once, whoever asks; raises what loading raises."""
        async with self.lease(spec):
            return self._entries[spec.key]

    async def unload(self, spec: ModelSpec) -> Entry:
        """Waits for running work, then frees; idempotent."""
        entry = self._entry(spec)
        if entry.loading is not None:
            await asyncio.wait({entry.loading})
        while entry.leases and entry.state == "loaded":
            await entry.idle.wait()
        if entry.state == "loaded":
            await self._free(entry)
        entry.state, entry.error = "unloaded", None
        self._on_change()
        return entry

    def holdings(self) -> Sequence[Holding]:
        """Every model touched so far."""
        return [entry.holding() for entry in self._entries.values()]

    def held_bytes(self) -> int:
        """The sum of the measured footprints."""
        return sum(e.bytes for e in self._entries.values() if e.state == "loaded")

    def peek(self, spec: ModelSpec) -> Loaded | None:
        """The model if it is in memory."""
        entry = self._entries.get(spec.key)
        return entry.loaded if entry else None

    async def close(self) -> None:
        """Frees everything without waiting for leases."""
        for entry in list(self._entries.values()):
            if entry.state == "loaded":
                await self._free(entry)
        self._thread.shutdown(wait=False)

    def _entry(self, spec: ModelSpec) -> Entry:
        if spec.key not in self._entries:
            self._entries[spec.key] = Entry(spec)
        return self._entries[spec.key]

    async def _loaded(self, entry: Entry) -> Loaded:
        while entry.state == "unloading":
            await entry.freed.wait()
        if entry.loaded is not None:
            return entry.loaded
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load(entry))
            entry.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(entry.loading)

    async def _load(self, entry: Entry) -> Loaded:
        """Shown as loading, room made, loaded, measured; rolled back on failure."""
        spec, started = entry.spec, time.monotonic()
        self._show(entry, "loading")
        try:
            folder = self._locate(spec)
            await self._make_room(spec, entry.bytes)
            before = devices.resident()
            loaded = await self._in_thread(lambda: self._open(spec, folder))
            entry.bytes = max(loaded.weight_bytes, devices.resident() - before)
        except Exception as cause:
            entry.error = self._failure(spec, cause)
            entry.loading = None
            self._show(entry, "failed")
            raise entry.error from cause
        entry.loaded, entry.loading, entry.error = loaded, None, None
        entry.load_ms = (time.monotonic() - started) * 1e3
        self._show(entry, "loaded")
        log.info("model_loaded", model=spec.name, version=spec.version, ms=round(entry.load_ms), bytes=entry.bytes)
        return loaded

    def _open(self, spec: ModelSpec, folder: Path | None) -> Loaded:
        provider = self._providers(spec.provider)
        device = "cpu" if self._share.gpu is None else f"cuda:{self._share.gpu}"
        wanted = device if spec.device == "auto" else spec.device
        return provider.load(spec, folder, device=wanted, threads=self._share.threads)

    def _failure(self, spec: ModelSpec, cause: Exception) -> ModelMoraError:
        log.warning("model_load_failed", model=spec.name, version=spec.version, exc_info=cause)
        if isinstance(cause, ModelMoraError):
            return cause
        if isinstance(cause, MemoryError):
            return ModelLoadFailed(f"{spec.key}: the machine ran out of memory while loading it", retry_after_s=5.0)
        return ModelLoadFailed(f"{spec.key} could not be loaded: {type(cause).__name__}; see the runner's log")

    async def _make_room(self, spec: ModelSpec, need: int) -> None:
        held = [
            Held(model=key, bytes=e.bytes, busy=e.leases > 0, pinned=e.spec.pin)
            for key, e in self._entries.items()
            if e.state == "loaded"
        ]
        for key in evictions(held, need, self._share.budget_bytes, model=spec.key):
            log.info("model_evicted", model=key, bytes=self._entries[key].bytes)
            await self._free(self._entries[key])

    async def _free(self, entry: Entry) -> None:
        loaded, entry.loaded = entry.loaded, None
        if loaded is None:
            raise InternalError(f"{entry.spec.key} is not loaded")
        entry.freed.clear()
        self._show(entry, "unloading")

        def free(model: Loaded) -> None:
            model.close()
            devices.release()

        try:
            await self._in_thread(lambda: free(loaded))
        finally:
            self._show(entry, "unloaded")
            entry.freed.set()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _show(self, entry: Entry, state: State) -> None:
        entry.state = state
        self._on_change()
