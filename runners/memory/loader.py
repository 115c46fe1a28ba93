"""Opens and closes models in a thread of their own, one after the other, and measures what they take."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias, TypeVar

import structlog

from modelmora.domain.models import ModelSpec, Task
from runners import capabilities, devices
from runners.memory.entry import Entry
from runners.memory.meters import Bustle, Meter
from runners.memory.sizes import Measured, Sizes, guess
from runners.provider import AnyProvider, Loaded

T = TypeVar("T")
log = structlog.get_logger(__name__)

Learnt: TypeAlias = Callable[[Entry], None]
"""Told on the event loop that a model's size is known better."""


class Loader:
    """The thread that loads and frees; `measuring` may be entered from any thread."""

    def __init__(
        self,
        providers: Callable[[str], AnyProvider],
        *,
        share: devices.Share,
        meters: Callable[[str], Meter],
        on_learnt: Learnt,
    ) -> None:
        self.sizes = Sizes()
        self._providers = providers
        self._share = share
        self._meters = meters
        self._on_learnt = on_learnt
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pool")
        self._bustle = Bustle()
        self._there: tuple[str, ...] | None = None
        self._imported: set[str] = set()
        self._fallen: set[str] = set()

    @property
    def device(self) -> str:
        """Where models go that do not say where."""
        return devices.place("auto", self._share.gpu, self._there).device

    async def prepare(self, spec: ModelSpec) -> str:
        """Imports what the family needs, which shows the devices there are; whose memory the model will take."""
        await self._in_thread(lambda: self._import(spec))
        return devices.memory_home(self._place(spec).device)

    def device_of(self, spec: ModelSpec) -> str:
        """Where the model is going; known once its family was prepared."""
        return self._place(spec).device

    async def guess(self, spec: ModelSpec, folder: Path | None) -> int:
        """What a model that was never loaded may take."""
        return 0 if folder is None else await self._in_thread(lambda: guess(spec, folder))

    async def open(self, entry: Entry, folder: Path | None) -> Loaded:
        """Loads and measures; sets the entry's device and bytes.

        What else works meanwhile spoils the measurement: then the weights count as the provider counts them.
        """
        spec, provider = entry.spec, self._providers(entry.spec.provider)
        loop, device = asyncio.get_running_loop(), self._place(spec).device

        def tell(done: int, total: int) -> None:
            if entry.tells:
                loop.call_soon_threadsafe(entry.tell, done, total)

        def work() -> tuple[Loaded, int]:
            meter = self._meters(entry.device)
            with self._bustle.busy() as alone:
                devices.trim()  # what the heap keeps would hold the weights, and hide them
                before = meter.used()
                loaded = provider.load(spec, folder, device=device, threads=self._share.threads, tell=tell)
                capabilities.check(spec, provider.tasks(), loaded)
                devices.trim()
                return loaded, meter.used() - before if alone() else 0

        loaded, grown = await self._in_thread(work)
        home = devices.memory_home(loaded.device)
        full = dict.fromkeys(provider.tasks(), loaded.description.max_batch)
        size = self.sizes.of(spec, home)
        size.opened(max(loaded.weight_bytes, grown if home == entry.device else 0), full)
        entry.device, entry.bytes, entry.loop = home, size.bytes, loop
        return loaded

    async def close(self, loaded: Loaded) -> None:
        """Frees the model and returns its memory to the system; never raises for what the family raises."""
        await self._in_thread(lambda: self._let_go(loaded))

    @contextlib.contextmanager
    def measuring(self, entry: Entry | None, task: Task, items: int) -> Iterator[None]:
        """See `Pool.measuring`."""
        with self._bustle.busy() as alone:
            curious = entry is not None and self.sizes.curious(entry.spec.key, entry.device, task, items)
            if entry is None or entry.loop is None or not curious or not alone():
                yield
                return
            meter, device, loop = self._meters(entry.device), entry.device, entry.loop
            before = meter.start()
            yield
            peak, after = (0, 0) if before is None else meter.finish()
            if alone():
                used = before or 0
                batch = Measured(task=task, items=items, peak=max(0, peak - used), kept=max(0, after - used))
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
                    loop.call_soon_threadsafe(self._learn, entry, device, batch)

    def run_full(self, entry: Entry, loaded: Loaded, task: Task, items: int) -> None:
        """A batch of so many samples on all threads, measured; raises what the model does."""
        with self.measuring(entry, task, items):
            capabilities.forward(loaded, task, [loaded.sample(task)] * items, threads=self._share.threads)

    def shutdown(self) -> None:
        """Ends the thread once it is done with what it has."""
        self._thread.shutdown(wait=False)

    def _learn(self, entry: Entry, device: str, batch: Measured) -> None:
        size = self.sizes.of(entry.spec, device)
        size.learn(batch)
        log.debug("batch_measured", model=entry.spec.key, task=batch.task, items=batch.items, peak=batch.peak)
        if entry.loaded is not None and entry.device == device:
            entry.bytes = size.bytes
            self._on_learnt(entry)

    def _import(self, spec: ModelSpec) -> None:
        """The family's libraries, unless another runs the model: its own may not even be installed."""
        needed = spec.engine if spec.exported else spec.provider
        if needed in self._imported:
            return  # and disturb no measurement
        with self._bustle.busy():
            if not spec.exported:
                self._providers(spec.provider).prepare()
            self._there = devices.found()
            self._share.budget(self.device)  # the first question to a GPU's driver takes a second: not on the loop
        self._imported.add(needed)

    def _place(self, spec: ModelSpec) -> devices.Place:
        if spec.exported:
            return devices.Place("cpu")
        place = devices.place(spec.device, self._share.gpu, self._there)
        if place.why is not None and spec.device not in self._fallen:
            self._fallen.add(spec.device)
            log.warning("device_fallback", declared=spec.device, device=place.device, why=place.why)
        return place

    def _let_go(self, loaded: Loaded) -> None:
        with self._bustle.busy():
            try:
                loaded.close()
            except Exception:  # it is gone for us: what it held comes back with its last reference
                log.exception("model_not_closed", model=loaded.description.model)
            devices.release()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
