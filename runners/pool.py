"""The models this worker holds: loaded once however many ask, leased while in use, evicted by age."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import structlog

from modelmora.domain.memory import Held, evictions
from modelmora.domain.models import ModelSpec, State
from modelmora.errors import InternalError, ModelLoadFailed, ModelMoraError, OutOfMemory
from modelmora.ports import Holding
from runners import devices
from runners.provider import Loaded, Provider
from runners.signals import Signal

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Entry:
    """One model's place in the pool.

    `leases` hold it; `claims` are those and the ones still waiting for it: a claimed model is not evicted.
    """

    spec: ModelSpec
    state: State = "unloaded"
    loaded: Loaded | None = None
    bytes: int = 0
    leases: int = 0
    claims: int = 0
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
        self._changing = asyncio.Lock()  # room is reckoned, used and measured by one change at a time
        self._released = Signal()

    @contextlib.asynccontextmanager
    async def lease(self, spec: ModelSpec) -> AsyncIterator[Loaded]:
        """The model, loaded if need be and held until the block ends; raises what loading raises."""
        entry = self._entry(spec)
        entry.claims += 1
        try:
            loaded = await self._loaded(entry)
            self._entries.move_to_end(spec.key)
            with self._leased(entry):
                yield loaded
        finally:
            entry.claims -= 1
            if entry.claims == 0:
                self._released.set()

    async def load(self, spec: ModelSpec) -> Entry:
        """Loads once, whoever asks; raises what loading raises."""
        async with self.lease(spec):
            return self._entries[spec.key]

    async def unload(self, spec: ModelSpec) -> Entry:
        """Waits for running work, then frees; idempotent."""
        entry = self._entry(spec)
        while entry.loading is not None or entry.state == "unloading":
            await (entry.freed.wait() if entry.loading is None else asyncio.wait({entry.loading}))
        if entry.state == "loaded":
            await self._retire(entry)
        entry.error = None
        self._show(entry, "unloaded")
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
        """Frees everything without waiting for leases; what is still loading is given up."""
        for entry in list(self._entries.values()):
            if entry.loading is not None:
                entry.loading.cancel()
            if entry.state == "loaded":
                await self._free(entry)
        self._thread.shutdown(wait=False)

    def _entry(self, spec: ModelSpec) -> Entry:
        if spec.key not in self._entries:
            self._entries[spec.key] = Entry(spec)
        return self._entries[spec.key]

    async def _loaded(self, entry: Entry) -> Loaded:
        while entry.loaded is None or entry.state == "unloading":
            if entry.state == "unloading":
                await entry.freed.wait()
                continue
            if entry.loading is None:
                entry.loading = asyncio.create_task(self._load(entry))
                entry.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
            await asyncio.shield(entry.loading)
        return entry.loaded

    @contextlib.contextmanager
    def _leased(self, entry: Entry) -> Iterator[None]:
        entry.leases += 1
        entry.idle.clear()
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
            folder = self._locate(spec)
            await self._in_thread(lambda: self._providers(spec.provider).prepare())
            loaded = await self._open_in_room(entry, folder)
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

    async def _open_in_room(self, entry: Entry, folder: Path | None) -> Loaded:
        """Opens the model once it fits, waiting while what could make room is in use.

        How large it is is known after its first time only: it may have to go again.
        """
        while True:
            released = self._released.next()
            async with self._changing:
                if await self._make_room(entry):
                    before = devices.resident()
                    loaded = await self._in_thread(lambda: self._open(entry.spec, folder))
                    entry.bytes = max(loaded.weight_bytes, devices.resident() - before)
                    if await self._fits(entry, loaded):
                        return loaded
            await released.wait()

    async def _fits(self, entry: Entry, loaded: Loaded) -> bool:
        """Whether there is room for what was just opened; else it is let go."""
        fits = False
        try:
            fits = await self._make_room(entry)
        finally:
            if not fits:
                await self._in_thread(lambda: _let_go(loaded))
        return fits

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

    async def _make_room(self, entry: Entry) -> bool:
        """Evicts one by one (meanwhile others may be leased); False when it takes one that is in use.

        Raises OutOfMemory when it would not fit even then.
        """
        need, budget, model = entry.bytes, self._share.budget_bytes, entry.spec.key
        while True:
            held = self._held()
            try:
                going = evictions(held, need, budget, model=model)
            except OutOfMemory:
                evictions([replace(h, busy=False) for h in held], need, budget, model=model)
                return False
            if not going:
                return True
            log.info("model_evicted", model=going[0], bytes=self._entries[going[0]].bytes)
            await self._free(self._entries[going[0]])

    def _held(self) -> list[Held]:
        return [
            Held(model=key, bytes=e.bytes, busy=e.claims > 0 or e.state == "unloading", pinned=e.spec.pin)
            for key, e in self._entries.items()
            if e.state in ("loaded", "unloading")
        ]

    async def _retire(self, entry: Entry) -> None:
        """Lets running work finish, keeps new work waiting, then frees; whoever asked may leave meanwhile."""
        entry.freed.clear()
        self._show(entry, "unloading")
        try:
            while entry.leases:
                await entry.idle.wait()
            await self._changing.acquire()
        except asyncio.CancelledError:
            self._show(entry, "loaded")
            entry.freed.set()
            raise
        try:
            await self._free(entry)
        finally:
            self._changing.release()

    async def _free(self, entry: Entry) -> None:
        loaded, entry.loaded = entry.loaded, None
        if loaded is None:
            raise InternalError(f"{entry.spec.key} is not loaded")
        entry.freed.clear()
        self._show(entry, "unloading")
        try:
            await self._in_thread(lambda: _let_go(loaded))
        finally:
            self._show(entry, "unloaded")
            entry.freed.set()
            self._released.set()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _show(self, entry: Entry, state: State) -> None:
        entry.state = state
        self._on_change()


def _let_go(loaded: Loaded) -> None:
    loaded.close()
    devices.release()
