"""Finds out what `auto` means for the models that are loaded, while nobody asks for anything else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

import structlog

from modelmora.domain.models import ModelSpec
from modelmora.errors import Cancelled, ModelMoraError
from runners.forms import Choosable, allowed, undecided

if TYPE_CHECKING:
    from runners.host import RunnerHost

log = structlog.get_logger(__name__)

IDLE_S = 3.0
LOOK_S = 1.0
AGAIN_S = 60.0
PATIENCE_S = 600.0


class Resolver:
    """Measures each model that is loaded as `auto` and of which nothing was decided yet, once in this process.

    It stops for work between any two batches, takes one core, and evicts nothing; it gives up, and begins anew later,
    when the model shall be unloaded, when another one is to be loaded, or after `patience_s`. What it finds holds from
    the model's next load on.
    """

    def __init__(
        self,
        host: RunnerHost,
        *,
        idle_s: float = IDLE_S,
        look_s: float = LOOK_S,
        again_s: float = AGAIN_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._host = host
        self._idle_s = idle_s
        self._look_s = look_s
        self._again_s = again_s
        self._patience_s = patience_s
        self._looked_at: set[str] = set()

    async def follow(self) -> None:
        """For ever: versions that are registered while this worker runs are looked at too."""
        while True:
            await self.run()
            await self._host.changed.wait(self._look_s)

    async def run(self) -> None:
        """Ends when every such model of the group that is known now was looked at."""
        waiting = {
            spec.key: spec for spec in self._host.models() if undecided(spec) and spec.key not in self._looked_at
        }
        while waiting:
            await self._host.changed.wait(self._look_s)
            for spec in [spec for spec in waiting.values() if self._host.pool.peek(spec) is not None]:
                try:
                    await self._resolve(spec)
                    del waiting[spec.key]
                    self._looked_at.add(spec.key)
                except Cancelled:
                    await asyncio.sleep(self._again_s)

    async def _resolve(self, spec: ModelSpec) -> None:
        """What fails is logged: the model goes on in fp32. Raises Cancelled where it gave up."""
        try:
            await self._idle(lambda: None)
            key = await asyncio.to_thread(self._open_question, spec)
            if key is None:
                return
            with self._host.decisions.claimed(key) as ours:
                if ours:
                    await self._measure(spec)
        except Cancelled:
            raise
        except ModelMoraError as error:
            log.warning("precision_unresolved", model=spec.name, version=spec.version, why=error.detail)
        except Exception:
            log.exception("precision_unresolved", model=spec.name, version=spec.version)

    def _open_question(self, spec: ModelSpec) -> str | None:
        """The question that is still to be decided; None where there is nothing to choose from."""
        provider, loaded = self._host.provider(spec), self._host.pool.peek(spec)
        if loaded is None or not isinstance(provider, Choosable):
            return None
        if len(allowed(spec, provider, loaded.device)) < 2:
            return None
        decisions, folder = self._host.decisions, self._host.locate(spec)
        question = decisions.question(spec, provider, folder, loaded.device)
        return question if decisions.stored(question) is None else None

    async def _measure(self, spec: ModelSpec) -> None:
        from runners.examinations.parity import verify  # noqa: PLC0415 - brings the decoders of pictures and texts
        from runners.examinations.trial import Pace  # noqa: PLC0415 - as above

        until = time.monotonic() + self._patience_s

        async def turn() -> None:
            self._refuse_if_wanted(spec, until)
            if self._host.batcher.busy():
                await self._idle(lambda: self._refuse_if_wanted(spec, until))

        def still() -> None:
            if self._host.pool.peek(spec) is None or time.monotonic() > until:
                raise self._put_off(spec)

        steps = verify(self._host, spec, deadline=until, pace=Pace(turn=turn, still=still, threads=1, evicts=False))
        async with self._host.examining, aclosing(steps):
            async for _ in steps:
                pass

    def _refuse_if_wanted(self, spec: ModelSpec, until: float) -> None:
        """Raises Cancelled where holding on to the model would keep others waiting."""
        states = {one.model: one.state for one in self._host.pool.holdings()}
        if states.get(spec.key) != "loaded" or "loading" in states.values() or time.monotonic() > until:
            raise self._put_off(spec)

    def _put_off(self, spec: ModelSpec) -> Cancelled:
        log.info("precision_put_off", model=spec.name, version=spec.version)
        return Cancelled(f"{spec.key} is wanted: its precision is measured another time")

    async def _idle(self, check: Callable[[], None]) -> None:
        """Returns when nothing has run or waited here for a while; `check` may raise meanwhile."""
        quiet_since = time.monotonic()
        while (busy := self._host.batcher.busy()) or time.monotonic() - quiet_since < self._idle_s:
            if busy:
                quiet_since = time.monotonic()
            check()
            await asyncio.sleep(min(self._idle_s, 0.02))
