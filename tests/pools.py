"""A pool over a family that does as it is told, with memory and a clock in numbers."""

from __future__ import annotations

from pathlib import Path

from modelmora.domain.models import Batching, ModelSpec
from modelmora.errors import ModelMoraError
from runners.devices import Share
from runners.memory.meters import Meter, meter_of
from runners.pool import Pool
from tests.fakes import Clock
from tests.families import GIB, Family, Gate
from tests.folders import Folders
from tests.gpus import FakeMeter


def spec(name: str, *, pin: bool = False, device: str = "auto", idle_ttl_s: float | None = None) -> ModelSpec:
    return ModelSpec(
        name=name,
        version="1.0.0",
        type="embedding",
        provider="family",
        source="bundled:noop",
        batching=Batching(max_batch=4),
        pin=pin,
        device=device,
        idle_ttl_s=idle_ttl_s,
    )


A, B, C, D = (spec(name) for name in "abcd")


class Taking(Gate):
    """A batch takes a GiB for each of its items while it is computed."""

    def __init__(self, its: PoolFixture) -> None:
        super().__init__()
        self._its = its

    def pass_through(self) -> None:
        size = len(self._its.family.batches[-1]) * GIB
        self._its.memory.take(size)
        super().pass_through()
        self._its.memory.give(size)


class PoolFixture:
    """A pool over one family, with room for so many GiB. `memory` is what `metered` pools measure, `clock` theirs."""

    def __init__(self) -> None:
        self.family = Family(weights=dict.fromkeys("abcd", GIB))
        self.changes: list[dict[str, str]] = []
        self.missing: dict[str, ModelMoraError] = {}
        self.folders: dict[str, Path] = {}
        self.memory = FakeMeter()
        self.clock = Clock()
        self.room(0)

    def room(self, gib: float, *, metered: bool = False, gpu: int | None = None, gpu_gib: float = 0) -> None:
        budgets = {} if gpu is None else {f"cuda:{gpu}": int(gpu_gib * GIB)}
        share = Share(threads=1, budget_bytes=int(gib * GIB), budgets=budgets, gpu=gpu)
        self.pool = Pool(
            lambda _: self.family,
            Folders(self._locate).using,
            share=share,
            on_change=self._note,
            clock=self.clock,
            meters=self._meter if metered else meter_of,
        )

    def _meter(self, device: str) -> Meter:
        return self.memory

    def states(self) -> dict[str, str]:
        return {h.model.partition("@")[0]: h.state for h in self.pool.holdings()}

    def loaded(self) -> set[str]:
        return {name for name, state in self.states().items() if state == "loaded"}

    async def load(self, *specs: ModelSpec) -> None:
        for one in specs:
            await self.pool.load(one)

    def _locate(self, model: ModelSpec) -> Path | None:
        if model.name in self.missing:
            raise self.missing[model.name]
        return self.folders.get(model.name)

    def _note(self) -> None:
        self.changes.append(self.states())

    def size(self, name: str) -> int:
        """What a model holds."""
        return next(h.bytes for h in self.pool.holdings() if h.model.startswith(name))

    def batch(self, model: ModelSpec, items: int, size: int) -> None:
        """One batch that takes so much memory while it runs, as the batcher runs it."""
        with self.pool.measuring(model, "embed_text", items):
            self.memory.take(size)
            self.memory.give(size)

    async def close(self) -> None:
        for gate in (self.family.running, self.family.loading, self.family.closing):
            gate.open()
        await self.pool.close()
